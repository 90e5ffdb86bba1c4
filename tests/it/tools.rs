//! The Modbus tools as commands: what `plan` and `check` say of a configuration, and how every fault is told, also
//! where the far side is no Modbus at all. What they do at real devices is in tests/interop/tools.py.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

fn tidegate(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tidegate")).args(args).output().expect("the binary runs")
}

fn refusal(args: &[&str]) -> (Option<i32>, String) {
    let done = tidegate(args);
    let said = String::from_utf8(done.stderr).expect("text");
    assert!(
        done.stdout.is_empty() && said.starts_with("error: ") && said.lines().count() == 1,
        "{args:?}: {said}"
    );
    (done.status.code(), said)
}

fn json(args: &[&str]) -> Value {
    let done = tidegate(args);
    assert!(done.status.success(), "{args:?}: {}", String::from_utf8_lossy(&done.stderr));
    serde_json::from_slice(&done.stdout).expect("JSON")
}

fn configuration(folder: &Path, baud_rate: u32) -> String {
    let file = folder.join("tidegate.yaml");
    let text = format!(
        "gateway: {{ id: plant-7, data_dir: data }}\n\
         ports:\n  rs485-a: {{ path: no-such-port, baud_rate: {baud_rate} }}\n\
         devices:\n  meter:\n    modbus: {{ port: rs485-a, unit: 1 }}\n    poll: 200ms\n    points:\n      \
         voltage: {{ input: 0, type: f32, unit: V }}\n      \
         current: {{ input: 6, type: f32, poll: 10s }}\n      \
         relay: {{ coil: 3, writable: true }}\n"
    );
    std::fs::write(&file, text).expect("a file");
    file.display().to_string()
}

#[test]
fn a_plan_names_each_request_and_its_time() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = configuration(folder.path(), 9600);
    let plan = json(&["plan", "--json", "-c", &file]);
    let line = &plan["lines"][0];
    assert_eq!((line["line"].as_str(), line["fits"].as_bool()), (Some("rs485-a"), Some(true)));
    let told =
        |request: &Value| (request["table"].clone(), request["count"].clone(), request["points"].clone());
    let requests: Vec<_> = line["requests"].as_array().expect("a list").iter().map(told).collect();
    let points = |name: &str| Value::from(vec![name]);
    assert_eq!(
        requests,
        [
            ("coil".into(), 1.into(), points("relay")),
            ("input".into(), 2.into(), points("voltage")),
            ("input".into(), 2.into(), points("current")),
        ]
    );
    let text = String::from_utf8(tidegate(&["plan", "-c", &file]).stdout).expect("text");
    assert!(text.contains("rs485-a, 9600 8N1: 10.10 requests/s") && text.contains(": fits\n"), "{text}");
}

#[test]
fn a_line_that_cannot_carry_its_polls_is_a_fault() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = configuration(folder.path(), 1200);
    let done = tidegate(&["check", "-c", &file]);
    let said = String::from_utf8(done.stderr).expect("text");
    assert_eq!(done.status.code(), Some(2), "{said}");
    let expected = format!(
        "{file}:3:3: ports.rs485-a: polls take 160 % of the line's time, and it has 100 % (polls 1.6 times as long would \
         be right, meter `poll: 320ms` in place of 200ms; or `baud_rate: 2400`)\n"
    );
    assert_eq!(said, expected);
    let done = tidegate(&["plan", "-c", &file]);
    assert_eq!(done.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&done.stdout).contains(": does not fit\n"));
}

#[test]
fn every_topic_that_results_is_explained() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = configuration(folder.path(), 9600);
    let explained = json(&["check", "--explain", "--json", "-c", &file]);
    let topics: Vec<_> = explained["topics"].as_array().expect("a list").iter().collect();
    let named: Vec<_> = topics.iter().map(|row| row["topic"].as_str().expect("a topic")).collect();
    assert_eq!(
        named,
        [
            "devices/meter/voltage",
            "devices/meter/current",
            "devices/meter/relay",
            "devices/meter/relay/set",
            "devices/meter/relay/result",
            "devices/meter/status"
        ]
    );
    assert_eq!((&topics[1]["type"], &topics[1]["poll"]), (&"f32".into(), &"10s".into()));
    let text = String::from_utf8(tidegate(&["check", "--explain", "-c", &file]).stdout).expect("text");
    assert!(text.starts_with("ok: 1 device, 3 points, 0 bridges\n\nTOPIC "), "{text}");
}

#[test]
fn a_pipeline_reads_faults_and_warnings_as_json() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("tidegate.yaml").display().to_string();
    std::fs::write(&file, "gateway:\n  id: g\n  colour: red\n").expect("a file");
    let done = tidegate(&["check", "--json", "-c", &file]);
    assert_eq!(done.status.code(), Some(2));
    let said = String::from_utf8(done.stderr).expect("text");
    let found: serde_json::Value = serde_json::from_slice(&done.stdout).expect("JSON");
    let fault = &found["faults"][0];
    assert_eq!(
        (&fault["file"], &fault["line"], &fault["column"]),
        (&file.as_str().into(), &3.into(), &3.into())
    );
    let (path, problem) =
        (fault["path"].as_str().expect("a path"), fault["problem"].as_str().expect("words"));
    assert_eq!(said, format!("{file}:3:3: {path}: {problem}\n"), "the same for people");
    let file = configuration(folder.path(), 9600);
    assert_eq!(json(&["check", "--json", "-c", &file])["warnings"], serde_json::json!([]));
    let overloaded = tidegate(&["check", "--json", "-c", &configuration(folder.path(), 1200)]);
    let found: serde_json::Value = serde_json::from_slice(&overloaded.stdout).expect("JSON");
    assert_eq!(found["faults"][0]["path"], "ports.rs485-a");
}

#[test]
fn wrong_usage_is_told_in_the_words_of_the_command_line() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = configuration(folder.path(), 9600);
    let cases: [(&[&str], &str); 10] = [
        (&["read"], "which unit?"),
        (&["read", "--tcp", "localhost"], "which address?"),
        (&["read", "--tcp", "localhost", "--input", "0", "-t", "f31"], "--type: unknown value `f31`"),
        (&["read", "--tcp", "localhost", "--coil", "0", "--scale", "2"], "--scale: "),
        (&["read", "--tcp", "localhost", "--input", "65536"], "--input: "),
        (&["read", "metre", "-c", &file], "no device `metre` is configured (did you mean `meter`?)"),
        (&["read", "meter", "volt", "-c", &file], "no point `volt` is configured"),
        (&["read", "meter", "--unit", "2", "-c", &file], "--unit: a device of the configuration has its own"),
        (&["write", "meter", "relay", "maybe", "-c", &file], "relay: takes true or false"),
        (&["find", "--tcp", "localhost", "--input", "1", "--expect", "0"], "anything fits 0"),
    ];
    for (args, words) in cases {
        let (code, said) = refusal(args);
        assert!(code == Some(2) && said.contains(words), "{args:?}: {code:?} {said}");
    }
}

#[test]
fn a_port_that_is_not_there_is_told_with_what_to_do() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = configuration(folder.path(), 9600);
    for args in [vec!["read", "meter", "voltage", "-c", &file], vec!["scan", "--port", "/dev/no-such-port"]] {
        let (code, said) = refusal(&args);
        assert!(
            code == Some(1) && said.contains("`tidegate scan` lists the serial ports"),
            "{args:?}: {said}"
        );
    }
    let (code, said) = refusal(&["trace", "-c", &file]);
    assert!(code == Some(1) && said.contains("no gateway runs"), "{said}");
}

/// One that takes every connection and answers whatever it is asked with the same bytes.
fn answering(answer: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address").to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut stream = stream;
                while stream.read(&mut [0; 256]).is_ok_and(|count| count > 0) {
                    if stream.write_all(answer).is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

#[test]
fn what_is_no_answer_is_never_taken_for_a_value() {
    let cases: [(&[u8], &str); 4] = [
        (b"", "does not answer within 300ms"),
        // Unit 9, where 1 was asked.
        (&[0, 0, 0, 0, 0, 5, 9, 3, 2, 0, 7], "answer to another request"),
        // Two registers for one.
        (&[0, 0, 0, 0, 0, 7, 1, 3, 4, 0, 7, 0, 7], "answer of the wrong length"),
        (&[0, 0, 0, 0, 0, 3, 1, 0x83, 2], "exception 2 (illegal data address)"),
    ];
    for (answer, words) in cases {
        let address = answering(answer);
        let (code, said) = refusal(&["read", "--tcp", &address, "--holding", "5", "-o", "300ms"]);
        assert!(code == Some(1) && said.contains(words), "{words}: {code:?} {said}");
    }
}
