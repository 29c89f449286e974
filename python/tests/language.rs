//! What the subset takes, what it refuses, and how it fails.

use jit_arena::Arena;
use jit_arena_python::{Options, Program, Runtime};

fn output(text: &str, options: Options) -> Result<String, String> {
    let program = Program::parse("test.py", text).expect("in the subset");
    let runtime = Runtime::new(Arena::builder(), options).expect("an arena");
    let world = runtime.world(&program);
    runtime.attach().expect("a thread").start(&world)?;
    Ok(world.take_output())
}

/// Interpreted and compiled at once, it ends the same.
#[track_caller]
fn both(text: &str) -> Result<String, String> {
    let slow = output(text, Options { machine_code: false, ..Options::default() });
    let eager = Options { warm_calls: 1, warm_loops: 1, warm_exits: 1, ..Options::default() };
    assert_eq!(output(text, eager), slow);
    slow
}

#[track_caller]
fn refused(text: &str, line: usize, column: usize, what: &str) {
    let error = Program::parse("test.py", text).expect_err("not in the subset");
    assert_eq!((error.line, error.column), (line, column), "{error}");
    assert!(error.what.contains(what), "{error}");
    assert!(error.to_string().starts_with(&format!("test.py:{line}:{column}: ")));
}

#[test]
fn what_is_not_in_the_subset_is_refused_where_it_is() {
    refused("x = 1\ny = (", 2, 6, "EOF");
    refused("class A:\n    pass\n", 1, 1, "statement");
    refused("x = 1\nprint(x, y)\n", 2, 10, "nothing assigns");
    refused("def f(a, b=2):\n    return a\n", 1, 1, "parameters");
    refused("x = [1, 2]\nprint(x[0:1])\n", 2, 7, "slices");
    refused("x = {}\n", 1, 5, "expression");
    refused("x = 99999999999999999999\n", 1, 5, "64 bits");
    refused("import os\n", 1, 1, "imports");
    refused("def f():\n    def g():\n        return 1\n    return g\n", 2, 5, "functions inside");
    refused("for i in range(3):\n    pass\nelse:\n    pass\n", 1, 1, "else");
    refused("print(1, sep='')\n", 1, 1, "keyword");
    refused("f = print\n", 1, 5, "as values");
    refused("return 1\n", 1, 1, "outside function");
    refused("break\n", 1, 1, "outside loop");
}

#[test]
fn ints_that_overflow_raise() {
    let grow = "\
def grow(n):
    x = 1
    for i in range(n):
        x = x * 3
    return x
print(grow(39))
try:
    print(grow(41))
except OverflowError as e:
    print(e)
for op in [0, 1, 2, 3]:
    big = 9223372036854775807
    try:
        if op == 0:
            big += 1
        if op == 1:
            big = -big - 2
        if op == 2:
            big = big << 1
        if op == 3:
            big = (-big - 1) // -1
        print('no', op)
    except OverflowError:
        print('yes', op)
";
    let said = both(grow).expect("all handled");
    assert!(
        said.starts_with("4052555153018976267\ninteger result does not fit 64 bits\n"),
        "{said}"
    );
    assert!(said.ends_with("yes 0\nyes 1\nyes 2\nyes 3\n"), "{said}");
}

#[test]
fn what_nobody_handles_is_told_with_its_line() {
    let error = both("def f(x):\n    return 1 // x\nfor i in range(5):\n    f(3 - i)\n");
    assert_eq!(
        error.expect_err("raises"),
        "ZeroDivisionError: integer division or modulo by zero (line 2)"
    );
    let error = both("def f(n):\n    if n > 5:\n        y = 1\n    return y\nf(9)\nf(9)\nf(1)\n");
    assert!(error.expect_err("raises").starts_with("UnboundLocalError"));
    let error = both("def f(a):\n    return a\nf(1, 2)\n");
    assert!(error.expect_err("raises").contains("takes 1 positional arguments but 2 were given"));
}

#[test]
fn code_for_one_type_meets_another() {
    let said = both(
        "\
def add(a, b):
    return a + b
def total(values):
    s = 0
    for v in values:
        s = s + v
    return s
for i in range(20):
    print(add(i, 1), add(i, 0.5), add('a', 'b'), add(True, i), total([1, 2, i]), total([0.5, 1.5]))
    print(total([1, 2.5, i]), total((1, 0.5)))
def last(values, i):
    return values[-i]
grown = []
for i in range(40):
    grown.append(i)
    print(last(grown, 1), grown[i], grown[-1 - i])
    grown[i] = i * 2
",
    );
    assert_eq!(said.expect("runs").lines().count(), 80);
}

#[test]
fn a_loop_without_rounds_leaves_its_variable() {
    let said = both(
        "\
def over_range(n, m):
    s = 0
    for k in range(n):
        x = k + 1
        for x in range(m):
            s += 1
        s += x
    return s
def over_list(n, values):
    s = 0
    for k in range(n):
        x = k + 1
        for x in values:
            s += 1
        s += x
    return s
def unbound(m):
    for x in range(m):
        pass
    return x
for i in range(20):
    print(over_range(i, 0), over_range(i, 2), over_list(i, []), over_list(i, [3, 4]))
    print(unbound(i + 1))
unbound(0)
",
    );
    assert!(said.expect_err("raises").starts_with("UnboundLocalError"));
}

#[test]
fn floats_compare_like_floats() {
    let said = both("\
def compare(a, b):
    n = 0
    if a < b: n += 1
    if a <= b: n += 10
    if a > b: n += 100
    if a >= b: n += 1000
    if a == b: n += 10000
    if a != b: n += 100000
    if not a < b: n += 1000000
    x = a < b
    y = a == b
    z = a != b
    return n, x, y, z
inf = 1e300 * 1e10
nan = inf - inf
for i in range(5):
    print(compare(1.0, 2.0), compare(2.0, 1.0), compare(1.0, 1.0), compare(nan, 1.0), compare(1.0, nan), compare(nan, nan))
    print(compare(1, 2), compare(1, 1.0), compare(9007199254740993, 9007199254740992.0))
    print(-0.0, 0.0 * -1.0, -(0.0), abs(-2.5), abs(-0.0), abs(-3), float(7), int(-2.9), 7 / 2)
");
    assert!(said.expect("runs").contains("(1100000, False, False, True)"));
}

#[test]
fn an_exception_finds_its_handler_from_machine_code() {
    let said = both(
        "\
def inner(i):
    if i % 3 == 0:
        raise ValueError('three')
    if i % 7 == 0:
        return 1 // (i - i)
    return i
def outer(n):
    s = 0
    for i in range(n):
        try:
            s += inner(i)
        except ValueError as e:
            s += 100
        except ArithmeticError:
            s += 1000
    return s
for i in range(30):
    print(outer(i))
",
    );
    assert!(said.expect("runs").contains("\n4222\n"));
}
