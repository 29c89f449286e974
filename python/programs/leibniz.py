# Pi by a slow series, and a random number generator: floats beside ints.


def pi(terms):
    s = 0.0
    sign = 1.0
    for i in range(terms):
        s += sign / (2 * i + 1)
        sign = -sign
    return 4.0 * s


def monte(n, seed):
    inside = 0
    for _ in range(n):
        seed = (seed * 16807) % 2147483647
        x = seed / 2147483647
        seed = (seed * 16807) % 2147483647
        y = seed / 2147483647
        if x * x + y * y <= 1.0:
            inside += 1
    return inside


def run(n):
    return pi(1500 * n) + monte(400 * n, 42 + n)


for k in range(1, 5):
    print(k, run(k))
