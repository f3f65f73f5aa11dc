use super::*;

fn refused(text: &str) -> Vec<String> {
    match parse(Path::new("x.yaml"), text) {
        Ok(node) => panic!("accepted: {node:?}"),
        Err(findings) => findings.iter().map(ToString::to_string).collect(),
    }
}

#[test]
fn what_a_configuration_has_no_use_for_is_refused_with_its_line() {
    assert_eq!(refused(""), ["error: x.yaml: the file is empty"]);
    assert_eq!(refused("# only words\n"), ["error: x.yaml: the file is empty"]);
    assert_eq!(
        refused("a: &x 1\nb: *x"),
        [
            "error: x.yaml:1: anchors (`&name`) are not supported\n  hint: write the value out",
            "error: x.yaml:2: aliases (`*name`) are not supported\n  hint: write the value out",
        ]
    );
    assert_eq!(
        refused("a: 1\nb: 2\na: 3\n"),
        [
            "error: x.yaml:3: the key `a` occurs twice\n  hint: it was first set on line 1; keep one of the two"
        ]
    );
    assert_eq!(
        refused("a: 1\n---\nb: 2\n"),
        [
            "error: x.yaml:2: a second document starts here (`---`)\n  hint: keep one document in the file"
        ]
    );
    assert_eq!(
        refused("a: !!int 1"),
        ["error: x.yaml:1: tags (`!name`) are not supported\n  hint: leave the tag out"]
    );
    assert_eq!(
        refused("[1]: 2"),
        [
            "error: x.yaml:1: a list or map can't be a key\n  hint: write a plain word before the `:`"
        ]
    );
}

#[test]
fn half_a_file_is_refused_where_it_breaks_off() {
    for text in ["a: [1, 2", "a: {b: ", "a: \"b", "a:\n\t- b", "a: 'x"] {
        let findings = refused(text);
        assert_eq!(findings.len(), 1, "{text:?}: {findings:?}");
        assert!(findings[0].contains("not valid YAML"), "{text:?}: {findings:?}");
    }
}

#[test]
fn too_deep_and_too_long_input_is_refused() {
    let deep = refused(&"- ".repeat(100));
    assert!(deep[0].contains("deeper than 32 levels"), "{deep:?}");
    // The scanner looks ahead and has a limit of its own.
    let deeper = refused(&"[".repeat(100_000));
    assert!(deeper[0].contains("recursion limit exceeded"), "{deeper:?}");
    let long = format!("a: {}", "x".repeat(MAX_BYTES));
    assert!(refused(&long)[0].contains("larger than 4096 KiB"));
}

#[test]
fn a_file_that_is_not_utf_8_is_refused_with_the_line() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.yaml");
    std::fs::write(&file, b"a: 1\nb: \xff\n").unwrap();
    let findings = read(&file).unwrap_err();
    assert_eq!(findings[0].line, Some(2));
    assert_eq!(findings[0].cause, "the file is not UTF-8");
    let missing = read(&folder.path().join("y.yaml")).unwrap_err();
    assert!(missing[0].cause.starts_with("the file can't be read"), "{missing:?}");
}

#[test]
fn every_accessor_says_what_it_wanted_and_where() {
    let text = "\
list: 1
text: [x]
nothing:
number: 70000
duration: 5
size: 10MB
choice: rnadom
flag: yes
";
    let node = parse(Path::new("x.yaml"), text).unwrap();
    let findings = Findings::new("x.yaml");
    let known = ["list", "text", "nothing", "number", "duration", "size", "choice", "flag"];
    let map = node.root(&findings).map(&known).unwrap();
    let at = |key: &str| map.get(key).unwrap();
    assert!(at("list").list().is_empty());
    assert_eq!(at("text").text(), None);
    assert_eq!(at("nothing").text(), None);
    assert_eq!(at("number").number::<u16>(1, 60_000), None);
    assert_eq!(at("duration").duration(), None);
    assert_eq!(at("size").bytes(1, 100), None);
    assert_eq!(at("choice").choice(&[("round_robin", 1), ("random", 2)]), None);
    assert_eq!(at("flag").boolean(), None);
    assert!(map.required("gone").is_none());
    let said: Vec<String> = findings.into_vec().iter().map(ToString::to_string).collect();
    assert_eq!(
        said,
        [
            "error: x.yaml:1: list: a single value stands where a list is needed\n  hint: start each entry with `- `",
            "error: x.yaml:1: the key `gone` is missing",
            "error: x.yaml:2: text: a list stands where a text is needed",
            "error: x.yaml:3: nothing: there is no value; a text is needed",
            "error: x.yaml:4: number: `70000` is not a number from 1 to 60000",
            "error: x.yaml:5: duration: `5` is not a duration\n  hint: write a whole number and a unit: `250ms`, `30s`, `15m`, `8h` or `2d`",
            "error: x.yaml:6: size: `10MB` is not a size\n  hint: write a whole number and a unit: `512B`, `512KiB`, `10MiB` or `1GiB`",
            "error: x.yaml:7: choice: `rnadom` is not one of `round_robin`, `random`\n  hint: did you mean `random`?",
            "error: x.yaml:8: flag: `yes` is neither `true` nor `false`",
        ]
    );
}

#[test]
fn user_input_in_messages_stays_on_one_line_and_short() {
    assert_eq!(quote("a\nb\u{1b}[31m"), "`a\\nb\\u{1b}[31m`");
    assert_eq!(quote(&"x".repeat(500)).len(), 85);
}
