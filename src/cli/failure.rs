//! How a command can fail, and the exit code that says so.

use std::fmt::Write;
use std::process::ExitCode;

use super::output;
use crate::admin::wire::ProblemBody;

/// Each with what to tell the person who typed the command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The gateway said no, or something went wrong.
    Refused(String),
    /// The command or the settings do not make sense.
    Usage(String),
    /// There is no gateway to connect to.
    Unreachable(String),
    /// There is something to connect to, and no answer came. It runs, so its files are its own.
    Unanswered(String),
}

pub type Outcome = Result<(), Failure>;

impl Failure {
    /// What the gateway says is wrong, each fault of a field on a line of its own.
    pub fn from_problem(problem: &ProblemBody) -> Failure {
        let mut text = output::tame(&problem.detail);
        if problem.errors.len() > 1 {
            for error in &problem.errors {
                // Writing to a String cannot fail.
                let _ = write!(text, "\n  {}: {}", output::tame(&error.pointer), output::tame(&error.message));
            }
        }
        Failure::Refused(text)
    }

    /// Prints it to stderr and gives the exit code.
    pub fn report(self) -> ExitCode {
        let (text, code) = match self {
            Failure::Refused(text) => (text, 1),
            Failure::Usage(text) => (text, 2),
            Failure::Unreachable(text) | Failure::Unanswered(text) => (text, 3),
        };
        output::note(&text);
        ExitCode::from(code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::Problem;
    use crate::admin::wire::FieldError;

    #[test]
    fn every_fault_is_shown_with_its_place() {
        let error = |pointer: &str, message: &str| FieldError { pointer: pointer.into(), message: message.into() };
        let shown = |errors| Failure::from_problem(&Problem::invalid(errors).body("r"));
        let two = vec![error("/name", "is required"), error("/tier", "no tier is named \"gold\"; known: free")];
        let text = "2 things are not valid\n  /name: is required\n  /tier: no tier is named \"gold\"; known: free";
        assert_eq!(shown(two), Failure::Refused(text.into()));
        assert_eq!(shown(vec![error("/name", "is required")]), Failure::Refused("/name: is required".into()));
    }
}
