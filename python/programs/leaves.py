# A small function without loops or calls, in a hot loop, with a global in it.

FACTOR = 1


def leaf(i, j):
    a = ((i + j) * (i + j + 1) // 2 + i + 1) % 1000003
    b = a * 3 % 1000003 + i * i % 97 + j * j % 89
    c = b * 5 % 1000003 + a * a % 83 + b * b % 79
    return (a + b + c) * FACTOR


def run(n):
    s = 0
    for i in range(1500 * n):
        s += leaf(i, n)
    return s


for k in range(1, 5):
    print(k, run(k))
