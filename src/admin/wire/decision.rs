//! What the gate decided, as explain and verify tell it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::gate::{Explanation, Finding, Outcome, Rules};
use crate::limits::Charged;
use crate::registry::Entry;

/// Why a request would be let in or turned away.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ExplainView {
    /// `ok`, or the code of the refusal.
    pub verdict: String,
    /// The code of the refusal; `null` for a request that is let in.
    pub code: Option<String>,
    /// The status that a refusal is answered with; `null` where the API behind answers.
    pub status: Option<u16>,
    /// The time that was judged.
    pub at: String,
    /// In their order of precedence: the code is that of the first that failed.
    pub steps: Vec<StepView>,
    /// What is left of each window, the request not taken off; empty where no caller is known.
    pub limits: Vec<WindowView>,
    /// Whose key it is, also where it is refused.
    pub key: Option<KeyName>,
    pub machine: Option<MachineName>,
    /// The name of the route, where one was found.
    pub route: Option<String>,
    /// What to bear in mind about the answer.
    pub notes: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StepView {
    pub step: String,
    /// `passed`, `failed` or `skipped`.
    pub outcome: String,
    /// What a failed step refuses with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// What was compared with what.
    pub detail: String,
}

/// What is left of one window of a tier.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WindowView {
    pub window: String,
    pub quota: u32,
    pub remaining: u32,
    /// Seconds until there is more; 0 when nothing is used.
    pub reset_after: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KeyName {
    pub id: String,
    pub label: String,
    pub environment: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MachineName {
    pub id: String,
    pub name: String,
}

/// Whether a key may do what an application asked about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct VerifyView {
    pub valid: bool,
    /// Why not; `null` for a valid one.
    pub code: Option<String>,
    /// Whose key it is, also where it is refused; `null` for one that nobody knows.
    pub machine: Option<MachineName>,
    pub key: Option<KeyName>,
    /// Machine ∩ key, `admin` expanded.
    pub permissions: Vec<String>,
    /// What is left of each window, this call taken off; empty where the key was refused before its limits were looked at.
    pub limits: Vec<WindowView>,
    /// Whole seconds after which another try makes sense, with the codes that come with 429 on a route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<u64>,
}

impl ExplainView {
    pub fn of(explanation: &Explanation, rules: &Rules) -> ExplainView {
        let code = explanation.verdict.as_ref().err().map(|refusal| refusal.code());
        ExplainView {
            verdict: code.map_or("ok", |code| code.as_str()).to_owned(),
            code: code.map(|code| code.as_str().to_owned()),
            status: code.map(|code| code.status().as_u16()),
            at: explanation.at.to_string(),
            steps: explanation.steps.iter().map(StepView::from).collect(),
            limits: explanation.limits.as_ref().map(windows).unwrap_or_default(),
            key: explanation.entry.as_deref().map(KeyName::from),
            machine: explanation.entry.as_deref().map(MachineName::from),
            route: explanation.route.map(|index| rules.route(index).name.clone()),
            notes: explanation.notes.iter().map(|note| (*note).to_owned()).collect(),
        }
    }
}

impl From<&Finding> for StepView {
    fn from(finding: &Finding) -> StepView {
        let (outcome, code) = match finding.outcome {
            Outcome::Passed => ("passed", None),
            Outcome::Failed(code) => ("failed", Some(code.as_str().to_owned())),
            Outcome::Skipped => ("skipped", None),
        };
        StepView { step: finding.step.as_str().to_owned(), outcome: outcome.to_owned(), code, detail: finding.detail.clone() }
    }
}

impl From<&Entry> for KeyName {
    fn from(entry: &Entry) -> KeyName {
        KeyName { id: entry.key.to_string(), label: entry.label.to_string(), environment: entry.environment.to_string() }
    }
}

impl From<&Entry> for MachineName {
    fn from(entry: &Entry) -> MachineName {
        MachineName { id: entry.machine.id.to_string(), name: entry.machine.state().name.to_string() }
    }
}

/// Shortest window first; none for a tier without limits.
pub fn windows(charged: &Charged) -> Vec<WindowView> {
    let shown = |w: &crate::limits::WindowState| WindowView {
        window: w.window.name().to_owned(),
        quota: w.quota,
        remaining: w.remaining,
        reset_after: w.more_in,
    };
    charged.windows().iter().map(shown).collect()
}
