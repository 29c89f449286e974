# One function, values of several types: code for one type meets another.


def mix(a, b, n):
    s = a
    for i in range(n):
        if i % 2 == 0:
            s = s + b
        else:
            s = s * 1 - b / 2
    return s


def average(values):
    s = 0
    for v in values:
        s += v
    return s / len(values)


def sign(x):
    if x > 0:
        return 1
    if x < 0:
        return -1
    return 0


def run(n):
    total = 0.0
    for i in range(8 * n):
        total += mix(i, 2, 20)
        total += mix(i * 0.5, 2, 20)
        total += mix(i, 0.25, 20)
        total += average([i, 2, 3])
        total += average([0.5, 1.5])
        total += average((1, 2.5, i))
        total += sign(i - 4) + sign(0.5 - i)
    return total


print(mix(True, 1, 3), average([True, False]))
print([1, 2.5, None, True, "text"], (1,), -7 // 2, -7 % 3, 7.5 // -2, -7.5 % 2, 2 ** 10, 2 ** -1, 1e100, 3 / 4)
print(1 < 2 < 3, 3 > 2 > 2, not 0, 1 if [] else 2, 5 and 0, 0 or "x", 1 == 1.0, None is None, ~5, 6 & 3, 6 | 3, 6 ^ 3)
for k in range(1, 5):
    print(k, run(k))
