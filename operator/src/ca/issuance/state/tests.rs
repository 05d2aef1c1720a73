use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::ca::testing;

fn json() -> Value {
    serde_json::from_slice(&testing::state("default").to_json()).unwrap()
}

/// A part of what is kept beside the first root or issuer.
fn of<'a>(state: &'a mut Value, list: &str, part: &str) -> &'a mut Value {
    let id = state[list][0]["id"].as_str().unwrap().to_owned();
    &mut state["material"][id][part]
}

fn parsed(value: &Value) -> Result<CaState, StateError> {
    CaState::parse("default", value.to_string().as_bytes())
}

#[test]
fn what_is_written_is_read() {
    let state = testing::state("default");
    assert_eq!(CaState::parse("default", &state.to_json()), Ok(state));
}

#[test]
fn anything_damaged_is_refused_as_a_whole() {
    let other = serde_json::from_slice::<Value>(&testing::state("default").to_json()).unwrap();
    type Change = fn(&mut Value, &Value);
    let changes: [(&str, Change); 11] = [
        ("another Mesh's", |s, _| s["mesh"] = "other".into()),
        ("newer format", |s, _| s["format"] = 2.into()),
        ("no root", |s, _| s["roots"] = Value::Array(vec![])),
        ("no issuer", |s, _| s["issuers"] = Value::Array(vec![])),
        ("foreign key", |s, o| *of(s, "issuers", "key") = of(&mut o.clone(), "issuers", "key").clone()),
        ("foreign certificate", |s, o| {
            *of(s, "roots", "certificate") = of(&mut o.clone(), "roots", "certificate").clone();
        }),
        ("no PEM", |s, _| *of(s, "roots", "certificate") = "x".into()),
        ("no material", |s, _| s["material"] = serde_json::json!({})),
        ("no key", |s, _| *of(s, "issuers", "key") = Value::Null),
        ("other date", |s, _| s["roots"][0]["notAfter"] = 5.into()),
        ("other id", |s, _| s["roots"][0]["id"] = "0123456789abcdef".repeat(4).into()),
    ];
    for (name, change) in changes {
        let mut state = json();
        change(&mut state, &other);
        assert!(parsed(&state).is_err(), "{name}");
    }
}

#[test]
fn neither_errors_nor_debug_output_show_keys() {
    let state = testing::state("default");
    let key_of = |id: &str| state.material[id].key.as_ref().unwrap().lines().nth(1).unwrap().to_owned();
    let key = key_of(&state.ledger.roots[0].id);
    assert!(!format!("{state:?} {:?}", state.material).contains(&key));
    let mut damaged: Value = serde_json::from_slice(&state.to_json()).unwrap();
    *of(&mut damaged, "roots", "key") = of(&mut damaged.clone(), "issuers", "key").clone();
    let issuer_key = key_of(&state.ledger.issuers[0].id);
    assert!(!parsed(&damaged).unwrap_err().to_string().contains(&issuer_key));
    let text = json().to_string().replace(r#""roots":["#, r#""roots":[7,"#);
    let error = CaState::parse("default", text.as_bytes()).unwrap_err().to_string();
    assert!(!error.contains("PRIVATE"), "{error}");
}

proptest! {
    #[test]
    fn any_bytes_are_judged_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = CaState::parse("default", &bytes);
    }

    #[test]
    fn any_cut_is_refused(cut in 0_usize..2000) {
        let bytes = testing::state("default").to_json();
        prop_assume!(cut < bytes.len());
        prop_assert!(CaState::parse("default", &bytes[..cut]).is_err());
    }
}
