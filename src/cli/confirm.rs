//! Asks before what cannot be undone.

use std::io::{self, BufRead, IsTerminal, Write};

use clap::Args;

use super::failure::{Failure, Outcome};

#[derive(Clone, Debug, Default, Args)]
pub struct Consent {
    /// Do not ask for confirmation; needed where nobody can be asked
    #[arg(long)]
    yes: bool,
}

impl Consent {
    /// Goes on only if somebody agrees. `deed` completes "This will …"; it is asked for only when somebody is.
    pub fn to(&self, deed: impl FnOnce() -> Result<String, Failure>) -> Outcome {
        if self.yes {
            return Ok(());
        }
        let deed = deed()?;
        if !(io::stdin().is_terminal() && io::stderr().is_terminal()) {
            return Err(Failure::Usage(format!("this will {deed}; without a terminal to ask on, say --yes")));
        }
        ask(&mut io::stdin().lock(), &mut io::stderr(), &deed)
    }
}

fn ask(answers: &mut impl BufRead, questions: &mut impl Write, deed: &str) -> Outcome {
    let failed = |error| Failure::Refused(format!("cannot ask: {error}"));
    write!(questions, "This will {deed}. Go on? [y/N] ").and_then(|()| questions.flush()).map_err(failed)?;
    let mut answer = String::new();
    answers.read_line(&mut answer).map_err(failed)?;
    match answer.trim().to_lowercase().as_str() {
        "y" | "yes" | "o" | "oui" => Ok(()),
        _ => Err(Failure::Refused("nothing was changed".into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_clear_yes_is_one() {
        let mut asked = Vec::new();
        for (answer, agreed) in
            [("y\n", true), ("Yes\n", true), ("oui\n", true), ("\n", false), ("", false), ("n\n", false), ("yy\n", false)]
        {
            assert_eq!(ask(&mut answer.as_bytes(), &mut asked, "revoke it").is_ok(), agreed, "{answer:?}");
        }
        assert!(asked.starts_with(b"This will revoke it. Go on? [y/N] "));
    }
}
