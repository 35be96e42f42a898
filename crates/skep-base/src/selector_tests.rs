use super::*;
use proptest::prelude::*;

fn parse(text: &str) -> LabelSelector {
    text.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
}

fn has<'a>(labels: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<&'a str> {
    move |key| labels.iter().find(|(k, _)| *k == key).map(|(_, v)| *v)
}

#[test]
fn selectors_are_normalised() {
    let table = [
        ("", ""),
        ("  ", ""),
        ("x=a", "x=a"),
        ("x==a,y!=b", "x==a,y!=b"),
        ("y, x", "x,y"),
        ("! x", "!x"),
        ("x in (b,a,b)", "x in (a,b)"),
        ("x in ()", "x in ()"),
        ("x in (,)", "x in ()"),
        ("x in (a,)", "x in (,a)"),
        ("x in (a,,b)", "x in (,a,b)"),
        ("x notin (in, notin)", "x notin (in,notin)"),
        ("in in (in)", "in in (in)"),
        ("notin=in", "notin=in"),
        ("x=", "x="),
        ("x=,y=1", "x=,y=1"),
        ("x>1,y<2", "x>1,y<2"),
        ("a.b/c=1", "a.b/c=1"),
        ("z in (foo,,baz),y,w notin ()", "w notin (),y,z in (,baz,foo)"),
        ("x=a\0,y=b", "x=a"),
    ];
    for (text, want) in table {
        assert_eq!(parse(text).to_string(), want, "{text}");
    }
}

#[test]
fn errors_are_upstreams() {
    let name = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an \
                alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation \
                is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
    let value = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', \
                 and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or \
                 '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
    let bad_key = format!("unable to parse requirement: <nil>: Invalid value: \"-x\": name part {name}");
    let bad_value = format!("unable to parse requirement: values[0][x]: Invalid value: \"-a\": {value}");
    let bad_values = format!(
        "unable to parse requirement: [values[0][x]: Invalid value: \"-a\": {value}, \
         values[1][x]: Invalid value: \"-b\": {value}]"
    );
    let table = [
        ("x=a||y=b", "unable to parse requirement: values[0][x]: Invalid value: \"a||y\""),
        ("x==a==b", "found '==', expected: ',' or 'end of string'"),
        ("!x=a", "found '=', expected: ',' or 'end of string'"),
        ("x in", "unable to parse requirement: found '' expected: '('"),
        ("x in a", "unable to parse requirement: found 'a' expected: '('"),
        ("x in (", "unable to parse requirement: found '', expected: ',', ')' or identifier"),
        ("x in (a", "unable to parse requirement: found '', expected: ',' or ')'"),
        ("x in (a b)", "unable to parse requirement: found 'b', expected: ',' or ')'"),
        ("x in (,", "unable to parse requirement: found '', expected: ',', or identifier"),
        ("x in (=)", "unable to parse requirement: found '=', expected: ',', ')' or identifier"),
        ("x,", "found '', expected: identifier after ','"),
        ("x,,y", "found ',', expected: identifier after ','"),
        (",x", "found ',', expected: !, identifier, or 'end of string'"),
        ("=x", "found '=', expected: !, identifier, or 'end of string'"),
        ("!", "unable to parse requirement: found '', expected: identifier"),
        ("x y", "unable to parse requirement: found 'y', expected: in, notin, =, ==, !=, gt, lt"),
        ("x=(", "unable to parse requirement: found '(', expected: identifier"),
        (
            "x>a",
            "unable to parse requirement: values[0]: Invalid value: \"a\": for 'Gt', 'Lt' operators, the value must be an integer",
        ),
        ("-x", &bad_key),
        ("x=-a", &bad_value),
        ("x in (-b,-a)", &bad_values),
    ];
    for (text, want) in table {
        let error = text.parse::<LabelSelector>().unwrap_err().to_string();
        assert!(error.starts_with(want), "{text}: {error}");
    }
}

#[test]
fn requirements_match_as_upstream() {
    let labels = [("app", "web"), ("tier", ""), ("n", "5"), ("word", "five")];
    let table = [
        ("", true),
        ("app=web", true),
        ("app==db", false),
        ("app!=db", true),
        ("app!=web", false),
        ("other!=x", true),
        ("other notin (x)", true),
        ("app in (db,web)", true),
        ("app notin (db,web)", false),
        ("app", true),
        ("!app", false),
        ("!other", true),
        ("tier=", true),
        ("other=", false),
        ("n>4,n<6", true),
        ("n>5", false),
        ("word>1", false),
        ("other<1", false),
    ];
    for (text, want) in table {
        assert_eq!(parse(text).matches(has(&labels)), want, "{text}");
    }
    assert!(!LabelSelector::nothing().matches(has(&labels)));
    assert!(LabelSelector::everything().matches(has(&labels)));
    assert_eq!(parse("a in (x),b in (x,y),c!=z,d=q").exact("a"), Some("x"));
    assert_eq!(parse("a in (x,y)").exact("a"), None);
}

#[test]
fn requirements_check_their_parts() {
    let error = |operator, values: &[&str]| {
        let values = values.iter().map(|&v| v.to_owned()).collect();
        Requirement::new("x", operator, values).unwrap_err().to_string()
    };
    assert_eq!(
        error(Operator::In, &[]),
        "values: Invalid value: null: for 'in', 'notin' operators, values set can't be empty"
    );
    assert_eq!(
        error(Operator::Equals, &["a", "b"]),
        r#"values: Invalid value: ["a","b"]: exact-match compatibility requires one single value"#
    );
    assert_eq!(
        error(Operator::Exists, &["a"]),
        r#"values: Invalid value: ["a"]: values set must be empty for exists and does not exist"#
    );
    assert_eq!(
        error(Operator::LessThan, &["1", "2"]),
        r#"values: Invalid value: ["1","2"]: for 'Gt', 'Lt' operators, exactly one value is required"#
    );
}

#[test]
fn field_selectors() {
    let parse = |text: &str| text.parse::<FieldSelector>();
    let table = [
        ("", ""),
        (",", ""),
        ("b=1,a!=2", "a!=2,b=1"),
        ("a==1", "a=1"),
        ("a=", "a="),
        (r"a=x\,y\=z\\", r"a=x\,y\=z\\"),
        ("=x", "=x"),
    ];
    for (text, want) in table {
        assert_eq!(parse(text).unwrap().to_string(), want, "{text}");
    }
    let table = [
        ("a", "invalid selector: 'a'; can't understand 'a'"),
        ("b=1,a", "invalid selector: 'b=1,a'; can't understand 'a'"),
        (r"a=\x", r"invalid field selector: invalid escape sequence: \x"),
        (r"a=\", r"invalid field selector: invalid escape sequence: \"),
        ("a=b=c", "invalid field selector: unescaped character in value: 61"),
    ];
    for (text, want) in table {
        assert_eq!(parse(text).unwrap_err().to_string(), want, "{text}");
    }
    let fields = [("metadata.name", "a,b"), ("spec.nodeName", "")];
    assert!(parse(r"metadata.name=a\,b,spec.nodeName=").unwrap().matches(has(&fields)));
    assert!(parse("missing=").unwrap().matches(has(&fields)));
    assert!(!parse("spec.nodeName!=").unwrap().matches(has(&fields)));
}

fn requirement() -> impl Strategy<Value = Requirement> {
    let operator = prop::sample::select(vec![
        Operator::In,
        Operator::NotIn,
        Operator::Equals,
        Operator::DoubleEquals,
        Operator::NotEquals,
        Operator::Exists,
        Operator::DoesNotExist,
        Operator::GreaterThan,
        Operator::LessThan,
    ]);
    let words = prop::collection::vec("[a-z]{0,3}", 1..4);
    ("(in|notin|[a-z]{1,4}|a\\.b/[a-z]{1,3})", operator, words, 0..99i64).prop_map(
        |(key, operator, words, n)| {
            let values = match operator {
                Operator::In | Operator::NotIn => words,
                Operator::Exists | Operator::DoesNotExist => vec![],
                Operator::GreaterThan | Operator::LessThan => vec![n.to_string()],
                _ => vec![words[0].clone()],
            };
            Requirement::new(key, operator, values).unwrap()
        },
    )
}

proptest! {
    /// What is written is read as the same selector.
    #[test]
    fn label_selectors_round_trip(requirements in prop::collection::vec(requirement(), 0..5)) {
        let selector = LabelSelector::new(requirements);
        prop_assert_eq!(parse(&selector.to_string()), selector);
    }

    #[test]
    fn field_selectors_round_trip(terms in prop::collection::vec(("[a-z.]{1,9}", any::<bool>(), "[a-z\\\\,=!é]{0,5}"), 0..4)) {
        let mut selector = FieldSelector { requirements: terms.into_iter()
            .map(|(field, negated, value)| FieldRequirement { field, negated, value }).collect() };
        selector.requirements.sort_by_key(ToString::to_string);
        prop_assert_eq!(selector.to_string().parse::<FieldSelector>().unwrap(), selector);
    }

    /// No text makes a parser panic.
    #[test]
    fn any_text(text in "\\PC*", dense in "[a-z=!(),<> \\\\]{0,20}") {
        for text in [text, dense] {
            let _ = text.parse::<LabelSelector>();
            let _ = text.parse::<FieldSelector>();
        }
    }
}
