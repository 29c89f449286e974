# Products of matrices: lists of lists of floats.


def matrix(n, seed):
    rows = []
    for i in range(n):
        row = [0.0] * n
        for j in range(n):
            row[j] = (i * seed + j) % 7 * 0.25
        rows.append(row)
    return rows


def multiply(n, a, b):
    c = []
    for i in range(n):
        row = [0.0] * n
        left = a[i]
        for j in range(n):
            s = 0.0
            for k in range(n):
                right = b[k]
                s += left[k] * right[j]
            row[j] = s
        c.append(row)
    return c


def run(n):
    size = 16
    a = matrix(size, 3)
    b = matrix(size, 5)
    trace = 0.0
    for _ in range(n):
        c = multiply(size, a, b)
        for i in range(size):
            trace += c[i][i]
    return trace


for k in range(1, 5):
    print(k, run(k))
