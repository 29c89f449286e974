# Exceptions raised in hot code, in calls, and handled far away.


def divide(a, b):
    if b == 0:
        raise ValueError("nothing to divide by")
    return a // b


def careful(a, b):
    try:
        return divide(a, b)
    except ValueError as e:
        return -1


def element(values, i):
    try:
        return values[i]
    except IndexError:
        return 0


def run(n):
    values = [5, 6, 7, 8]
    s = 0
    zero = 0
    for i in range(120 * n):
        s += careful(i * 10, i % 5)
        s += element(values, i % 6)
        try:
            s += 10 // (i % 9)
        except ZeroDivisionError:
            zero += 1
        try:
            try:
                if i % 50 == 7:
                    raise RuntimeError("inner")
            except ValueError:
                s += 1000000
        except RuntimeError as e:
            s += 3
    return s * 1000 + zero


for k in range(1, 5):
    print(k, run(k))
try:
    divide(1, 0)
except ValueError as e:
    print("caught:", e)
