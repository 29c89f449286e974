//! What the trace reader takes and what it refuses, with the line.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use jit_arena_cli::bundled;
use jit_arena_cli::trace::{Event, Op, Shape, Trace};

const HEADER: &str = "t_ns,thread,op,id,code_bytes,data_bytes,padded_bytes\n";

fn read(text: &str) -> Result<Trace, String> {
    Trace::read("some/where/x.csv", text.as_bytes()).map_err(|e| e.to_string())
}

fn rows(rows: &str) -> Result<Trace, String> {
    read(&format!("{HEADER}{rows}"))
}

fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(text.as_bytes()).expect("into memory");
    encoder.finish().expect("into memory")
}

#[track_caller]
fn refused(result: Result<Trace, String>, expected: &str) {
    assert_eq!(result.expect_err("refused"), expected);
}

#[test]
fn events_and_executors_come_out_as_they_stand() {
    let trace =
        rows("5,0,a,0,451,104,4096\n7,3,a,1,10,0,4096\n9,1,f,0,451,104,4096\n").expect("a trace");
    assert_eq!(trace.name, "x");
    assert_eq!(trace.executors, [Shape { code: 451, data: 104 }, Shape { code: 10, data: 0 }]);
    let event = |t_ns, executor, op| Event { t_ns, executor, op };
    assert_eq!(
        trace.events,
        [event(5, 0, Op::Alloc), event(7, 1, Op::Alloc), event(9, 0, Op::Free)]
    );
    assert_eq!(trace.recorded_threads, 3);
    assert_eq!(trace.duration_ns(), 4);
    assert_eq!(trace.peak_live(), 565);
}

#[test]
fn the_format_leaves_room() {
    let plain = rows("1,0,a,0,100,8,4096\n2,0,f,0,100,8,4096\n").expect("a trace");
    // Fields behind the id of a free are not meant, so may be missing.
    assert_eq!(rows("1,0,a,0,100,8,4096\n2,0,f,0\n").expect("short free"), plain);
    assert_eq!(rows("1,0,a,0,100,8\n2,0,f,0,,,\n").expect("empty fields"), plain);
    // Line ends, empty lines, no last line end, blanks, byte-order mark.
    let crlf = "t_ns,thread,op,id,code_bytes,data_bytes\r\n1,0,a,0,100,8\r\n\r\n2,0,f,0\r\n";
    assert_eq!(read(crlf).expect("CRLF"), plain);
    assert_eq!(rows("1, 0, a, 0, 100, 8, 4096\n2,0,f,0").expect("blanks"), plain);
    let marked = format!("\u{feff}{HEADER}1,0,a,0,100,8,4096\n2,0,f,0\n");
    assert_eq!(read(&marked).expect("byte-order mark"), plain);
    // Quotes; one that is not closed swallows nothing.
    let quoted = "\"t_ns\",\"thread\",\"op\",\"id\",\"code_bytes\",\"data_bytes\"\n\
        \"1\",\"0\",\"a\",\"0\",\"100\",\"8\"\n\"2\", \"0\" ,\"f\",\"0\"\n";
    assert_eq!(read(quoted).expect("quotes"), plain);
    assert_eq!(rows("1,0,a,0,100,8,\"4096\n2,0,f,0\n").expect("an open quote"), plain);
    // Order of columns, and columns of somebody's own.
    let moved = "note,id,op,thread,t_ns,data_bytes,code_bytes\nx,0,a,0,1,8,100\ny,0,f,0,2,,\n";
    assert_eq!(read(moved).expect("moved columns"), plain);
    // Ids with gaps; equal times.
    assert_eq!(
        rows("1,0,a,18446744073709551615,100,8\n2,0,f,18446744073709551615").expect("ids"),
        plain
    );
    assert_eq!(rows("1,0,a,0,1,0\n1,0,f,0\n1,0,a,1,1,0\n").expect("equal times").events.len(), 3);
}

#[test]
fn gzip_is_known_by_its_bytes() {
    let text = format!("{HEADER}1,0,a,0,100,8,4096\n2,0,f,0\n");
    let plain = read(&text).expect("plain");
    assert_eq!(Trace::read("x.csv", &gzip(&text)[..]).expect("gzip"), plain);
    // Several members are one stream.
    let (head, tail) = text.split_at(60);
    let two = [gzip(head), gzip(tail)].concat();
    assert_eq!(Trace::read("x.csv.gz", &two[..]).expect("two members"), plain);
}

#[test]
fn a_damaged_gzip_stream_is_refused() {
    let mut text = HEADER.to_owned();
    for id in 0..5000 {
        text.push_str(&format!("{id},0,a,{id},{},8,4096\n", 100 + id % 7));
    }
    let whole = gzip(&text);
    let error = |bytes: &[u8]| Trace::read("t.csv.gz", bytes).expect_err("refused").to_string();
    for len in [whole.len() / 2, whole.len() - 1, whole.len() - 8] {
        let told = error(&whole[..len]);
        assert!(told.ends_with(": the gzip stream is cut short"), "{len} bytes: {told}");
        assert!(told.starts_with("t.csv.gz:"), "{told}");
    }
    assert!(error(&whole[..5]).ends_with("the gzip stream is cut short"));
    let mut changed = whole.clone();
    let checksum = changed.len() - 6;
    changed[checksum] ^= 1;
    assert!(error(&changed).contains("the gzip stream is damaged"), "{}", error(&changed));
}

#[test]
fn damage_is_refused_with_its_line() {
    let ok = "1,0,a,0,100,8,4096\n";
    let case = |row: &str, expected: &str| {
        refused(rows(&format!("{ok}{row}\n")), &format!("some/where/x.csv:3: {expected}"));
    };
    case("0,0,a,1,1,1,4096", "time goes back from 1 ns to 0 ns");
    case("2,0,f,7", "id 7 is freed before it is allocated");
    case("2,0,a,0,1,1,4096", "id 0 is allocated a second time");
    case("2,0,a,1,0,1,4096", "id 1 has no code: code_bytes is 0");
    case("2,0,a,1,4194304,1,4096", "id 1 needs 4194305 bytes; an executor has at most 4194304");
    case(
        "2,0,a,1,18446744073709551615,1,4096",
        "id 1 needs 18446744073709551615 bytes; an executor has at most 4194304",
    );
    case("2,0,a,1,,1,4096", "the row has no code_bytes");
    case("2,0,a,1", "the row has no code_bytes");
    case("2,0,f", "the row has no id");
    case("2,0,x,1,1,1", "op is \"x\", neither a nor f");
    case("-2,0,a,1,1,1", "t_ns is \"-2\", not a whole number in range");
    case("2,0,a,1,12e3,1", "code_bytes is \"12e3\", not a whole number in range");
    case("2,0,a,1,\"12,1", "code_bytes is \"\\\"12\", not a whole number in range");
    case("2,x,a,1,1,1", "thread is \"x\", not a whole number in range");
    refused(
        rows(&format!("{ok}2,0,f,0\n3,0,f,0\n")),
        "some/where/x.csv:4: id 0 is freed a second time",
    );
    refused(
        rows(&format!("{ok}2,0,f,0\n3,0,a,0,1,1\n")),
        "some/where/x.csv:4: id 0 is allocated a second time",
    );
    // The line counts empty lines too.
    refused(
        rows(&format!("{ok}2,0,f,0\r\n\r\n\n0,0,a,1,1,1")),
        "some/where/x.csv:6: time goes back from 2 ns to 0 ns",
    );
    refused(
        rows(&format!("{ok}\n\n0,0,a,1,1,1\n")),
        "some/where/x.csv:5: time goes back from 1 ns to 0 ns",
    );
}

#[test]
fn a_header_that_is_none_is_refused() {
    refused(
        read("t_ns,op,id,size\n1,a,0,1\n"),
        "some/where/x.csv:1: the header lacks thread, code_bytes, data_bytes",
    );
    refused(
        read("t_ns,thread,op,id,code_bytes,data_bytes,id\n"),
        "some/where/x.csv:1: the header names id twice",
    );
    refused(read(""), "some/where/x.csv: the trace has no events");
    refused(read(HEADER), "some/where/x.csv: the trace has no events");
    let binary =
        Trace::read("x", &[0x7f, b'E', b'L', b'F', 0, 0xff, 0xfe, 10][..]).expect_err("refused");
    assert!(binary.to_string().starts_with("x:1: the header lacks t_ns"), "{binary}");
}

#[test]
fn every_bundled_trace_reads_and_ends_as_recorded() {
    // Executors and frees as counted by other means when they were recorded.
    let known = [
        ("bm_richards", 272, 62),
        ("bm_sympy", 1405, 920),
        ("w_reload_nl", 4517, 4317),
        ("t_lib", 6337, 5176),
        ("w_threads_nl", 39_013, 38_813),
    ];
    assert_eq!(bundled::names().collect::<Vec<_>>(), known.map(|(name, ..)| name));
    for (name, executors, frees) in known {
        let trace = bundled::open(name).expect("bundled").expect("readable");
        assert_eq!(trace.name, name);
        assert_eq!(trace.executors.len(), executors, "{name}");
        assert_eq!(
            trace.events.iter().filter(|event| event.op == Op::Free).count(),
            frees,
            "{name}"
        );
        for stub in &trace.executors[..200] {
            assert_eq!((stub.bytes(), stub.padded(4096)), (555, 4096), "{name}");
        }
    }
    assert!(bundled::open("nothing").is_none());
}

#[test]
fn own_mappings_always_have_padding() {
    let padded = |bytes| Shape { code: bytes, data: 0 }.padded(4096);
    assert_eq!((padded(1), padded(4095), padded(4096), padded(4097)), (4096, 4096, 8192, 8192));
}

/// What a replay relies on.
fn assert_replayable(trace: &Trace) {
    let mut states = vec![None; trace.executors.len()];
    let (mut next, mut before) = (0, 0);
    for event in &trace.events {
        assert!(event.t_ns >= before);
        before = event.t_ns;
        let state = &mut states[event.executor as usize];
        match event.op {
            Op::Alloc => {
                assert_eq!((event.executor, *state), (next, None));
                next += 1;
                *state = Some(true);
            }
            Op::Free => assert_eq!(state.replace(false), Some(true)),
        }
    }
    assert!(!trace.events.is_empty() && states.iter().all(Option::is_some));
    assert!(trace.executors.iter().all(|shape| shape.code > 0 && shape.bytes() <= 4 << 20));
}

#[test]
fn whatever_the_bytes_a_trace_that_is_read_can_be_replayed() {
    let mut text = HEADER.to_owned();
    for id in 0..60 {
        text.push_str(&format!("{},{},a,{id},{},{},4096\n", 10 * id, id % 3, 100 + id, 7 * id));
        if id % 2 == 1 {
            text.push_str(&format!("{},0,f,{}\n", 10 * id + 5, id / 2));
        }
    }
    let mut random = fastrand::Rng::with_seed(5);
    let (mut read, mut refused) = (0, 0);
    for (original, rounds) in [(text.clone().into_bytes(), 3000), (gzip(&text), 1000)] {
        for _ in 0..rounds {
            let mut bytes = original.clone();
            for _ in 0..random.usize(1..4) {
                let at = random.usize(..bytes.len());
                match random.u8(..5) {
                    0 => bytes[at] = random.u8(..),
                    1 => bytes[at] = *random.choice(b"0123456789,af\n\r\"-").expect("not empty"),
                    2 => bytes.insert(at, *random.choice(b"0123456789,\n\"").expect("not empty")),
                    3 => drop(bytes.remove(at)),
                    _ => bytes.truncate(at.max(1)),
                }
            }
            match Trace::read("x.csv", &bytes[..]) {
                Ok(trace) => {
                    assert_replayable(&trace);
                    read += 1;
                }
                Err(error) => {
                    assert!(error.to_string().starts_with("x.csv"), "{error}");
                    refused += 1;
                }
            }
        }
    }
    // Some changes do no harm; most do.
    assert!(read > 100 && refused > 1000, "{read} read, {refused} refused");
}
