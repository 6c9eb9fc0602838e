//! A journal that was archived, as operators meet it: by the API and by commands, on a running gateway and on one that was stopped.

use std::fs;

use octroi::model::change::NewOperator;
use octroi::model::{Change, OperatorId, Rights};
use octroi::registry::Left;
use serde_json::{Value, json};

use crate::support::admin::{labelled, text};
use crate::support::program::{Ran, octroi, run};
use crate::support::{Admin, Gateway, Upstream, gateway};

struct World {
    _upstream: Upstream,
    gateway: Gateway,
    admin: Admin,
}

impl World {
    fn new() -> World {
        let upstream = Upstream::plain();
        let gateway = Gateway::before(upstream.address);
        fs::write(gateway.dir().join("octroi.yaml"), gateway::settings(upstream.address)).unwrap();
        let admin = Admin::of(&gateway);
        World { _upstream: upstream, gateway, admin }
    }

    fn run(&self, args: &[&str]) -> Ran {
        run(octroi(self.gateway.dir(), &[args, &["--config", "octroi.yaml"]].concat()))
    }

    fn json(&self, args: &[&str]) -> Value {
        self.run(&[args, &["--output", "json"]].concat()).json()
    }

    fn operator(&self, name: &str) -> OperatorId {
        let new = NewOperator { name: name.into(), rights: Rights::ALL, expires_at: None };
        match self.gateway.commit(Change::CreateOperator(new)).unwrap().left {
            Left::Operator(operator) => operator.id,
            left => panic!("{left:?}"),
        }
    }
}

fn whats(list: &Value) -> Vec<String> {
    list["data"].as_array().unwrap().iter().map(|line| text(&line["what"])).collect()
}

#[test]
fn j_lists_and_activity_end_where_an_archived_journal_begins_and_say_so() {
    let world = World::new();
    let admin = &world.admin;
    let machine = admin.machine(json!({"name": "caller"}));
    let (kept, gone) = (admin.key(&machine, labelled("prod - kept")), admin.key(&machine, labelled("prod - gone")));
    assert_eq!(admin.ask("DELETE", &format!("/v1/keys/{}", text(&gone["id"])), None).status, 204);
    assert_eq!(admin.get("/v1/journal")["archived_before"], Value::Null, "nothing is missing");
    world.run(&["journal", "archive", "--to", "old"]).done();
    admin.done("POST", &format!("/v1/keys/{}/deactivate", text(&kept["id"])), json!({}));

    let activity = |key: &Value| admin.get(&format!("/v1/keys/{}/activity", text(&key["id"])));
    let of_kept = activity(&kept);
    assert_eq!((whats(&of_kept), &of_kept["archived_before"]), (vec!["key.deactivated".into()], &json!(5)));
    let of_gone = activity(&gone);
    assert_eq!((whats(&of_gone), &of_gone["archived_before"]), (vec![], &json!(5)), "known, though its entries left");
    let page = admin.get("/v1/journal?limit=1");
    assert_eq!((&page["archived_before"], page["next_cursor"].is_string()), (&Value::Null, true), "pages are left");
    let list = admin.get("/v1/journal");
    assert_eq!((whats(&list), &list["archived_before"]), (vec!["key.deactivated".into(), "journal.archived".into()], &json!(5)));
    assert_eq!(whats(&admin.get("/v1/journal?subject=store")), ["journal.archived"]);
    assert_eq!(whats(&world.json(&["journal", "list", "--subject", "store"])), ["journal.archived"]);
    let listed = world.run(&["journal", "list"]);
    assert!(
        listed.done().contains("journal.archived") && listed.err == "note: the changes before 5 were archived and are not here\n",
        "{listed:?}"
    );
    assert_eq!(world.run(&["journal", "list", "--limit", "1"]).err, "", "not there yet");
    assert!(world.run(&["journal", "show", "2"]).failed(1).contains("change 2 was archived: the journal here begins with change 5"));
    assert!(world.run(&["journal", "show", "5"]).done().contains("store"));
    assert!(world.run(&["journal", "show", "9"]).failed(1).contains("no change"));
}

#[test]
fn j_an_archived_journal_is_verified_and_exported_from_where_it_begins() {
    let mut world = World::new();
    (0..3).for_each(|n| drop(world.admin.machine(json!({"name": format!("caller {n}")}))));
    let old = text(&world.json(&["journal", "verify"])["head"]);
    world.run(&["journal", "archive", "--to", "old"]).done();
    world.admin.machine(json!({"name": "later"}));
    let online = world.json(&["journal", "verify"]);
    assert_eq!((&online["valid"], &online["first"], &online["entries"]), (&json!(true), &json!(4), &json!(2)));
    assert_eq!(world.json(&["journal", "verify", "--head", &old])["valid"], true, "what came before ends with this head");
    let export = world.run(&["journal", "export", "--output-file", "part.ndjson"]);
    assert_eq!(export.done(), "");
    assert_eq!(export.err, format!("head {}\n", text(&online["head"])));
    let refused = world.run(&["journal", "export", "--since-seq", "2"]);
    assert!(refused.failed(1).contains("change 2 was archived: the journal here begins with change 4"), "{refused:?}");
    let verified = run(octroi(world.gateway.dir(), &["journal", "verify", "--file", "part.ndjson", "--head", &old]));
    assert!(verified.done().contains("2 changes in 1 file (changes 4 to 5; begins after change 3)"), "{verified:?}");
    let whole = world.json(&["store", "verify"]);
    assert_eq!((&whole["head"], &whole["first"]), (&online["head"], &online["first"]));
    world.gateway.stop();
    assert_eq!(world.json(&["journal", "verify"]), online, "stopped as running");
    assert_eq!(world.json(&["store", "verify"]), whole);
}

#[test]
fn j_the_activity_of_an_operator_outlives_it() {
    let world = World::new();
    let (here, gone) = (world.operator("on call"), world.operator("gone"));
    world.gateway.commit(Change::DisableOperator(here)).unwrap();
    world.gateway.commit(Change::DeleteOperator(gone)).unwrap();
    let activity = |id: OperatorId| whats(&world.admin.get(&format!("/v1/operators/{id}/activity")));
    assert_eq!(activity(here), ["operator.disabled", "operator.created"]);
    assert_eq!(activity(gone), ["operator.deleted", "operator.created"]);
    let listed = world.json(&["journal", "list", "--subject", &gone.to_string()]);
    assert_eq!(whats(&listed), activity(gone));
    let never = format!("/v1/operators/{}/activity", OperatorId::from_u128(7));
    assert_eq!(world.admin.ask("GET", &never, None).json()["code"], "not_found");
}
