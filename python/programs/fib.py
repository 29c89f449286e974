# Recursion, three ways.


def fib(n):
    if n < 2:
        return n
    return fib(n - 1) + fib(n - 2)


def ackermann(m, n):
    if m == 0:
        return n + 1
    if n == 0:
        return ackermann(m - 1, 1)
    return ackermann(m - 1, ackermann(m, n - 1))


def tak(x, y, z):
    if y >= x:
        return z
    return tak(tak(x - 1, y, z), tak(y - 1, z, x), tak(z - 1, x, y))


def down(n):
    return 0 if n == 0 else 1 + down(n - 1)


def run(n):
    total = 0
    for _ in range(n):
        total += fib(11) + ackermann(2, 3) + tak(6, 4, 2)
    return total + down(300)


for k in range(1, 5):
    print(k, run(k))
try:
    print(down(100000))
except RecursionError as e:
    print("too deep")
