# How fast points run away: floats in nested loops.


def escape(cr, ci, limit):
    zr = 0.0
    zi = 0.0
    for i in range(limit):
        r2 = zr * zr
        i2 = zi * zi
        if r2 + i2 > 4.0:
            return i
        zi = 2.0 * zr * zi + ci
        zr = r2 - i2 + cr
    return limit


def run(n):
    total = 0
    for y in range(4 * n):
        for x in range(20):
            total += escape(x * 0.125 - 2.0, (y % 20) * 0.1 - 1.0, 60)
    return total


for k in range(1, 5):
    print(k, run(k))
