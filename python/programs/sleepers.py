# Threads that sleep in the middle of hot loops.
import threading
import time


def nap(n, out, me):
    s = 0
    for i in range(n):
        s += i * (me + 1)
        if i % 97 == 50:
            time.sleep(0.0005)
    out[me] = s


def run(n):
    out = [0] * 3
    threads = []
    for me in range(3):
        threads.append(threading.Thread(target=nap, args=(150 * n, out, me)))
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    return out[0] + out[1] + out[2]


for k in range(1, 5):
    print(k, run(k))
