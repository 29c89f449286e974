# The spectral norm of an infinite matrix: a small function in a hot loop.
import math


def a(i, j):
    return 1.0 / ((i + j) * (i + j + 1) // 2 + i + 1)


def times(n, v, out, transposed):
    for i in range(n):
        s = 0.0
        for j in range(n):
            if transposed:
                s += a(j, i) * v[j]
            else:
                s += a(i, j) * v[j]
        out[i] = s


def run(n):
    size = 12
    u = [1.0] * size
    v = [0.0] * size
    t = [0.0] * size
    for _ in range(4 * n):
        times(size, u, t, False)
        times(size, t, v, True)
        times(size, v, t, False)
        times(size, t, u, True)
    vbv = 0.0
    vv = 0.0
    for i in range(size):
        vbv += u[i] * v[i]
        vv += v[i] * v[i]
    return math.sqrt(vbv / vv)


for k in range(1, 5):
    print(k, run(k))
