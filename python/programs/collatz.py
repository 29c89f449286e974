# The longest chain of Collatz: ints, and loops whose ends nobody knows.


def chain(n):
    steps = 0
    while n != 1:
        if n % 2 == 0:
            n = n // 2
        else:
            n = 3 * n + 1
        steps += 1
    return steps


def run(n):
    best = 0
    at = 0
    for i in range(1, 120 * n):
        steps = chain(i)
        if steps > best:
            best = steps
            at = i
    return at * 1000 + best


for k in range(1, 5):
    print(k, run(k))
