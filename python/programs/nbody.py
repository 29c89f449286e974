# Planets that move under each other's gravity: floats in lists.
import math

SOLAR_MASS = 39.47841760435743
DAYS = 365.24


def step(n, x, y, z, vx, vy, vz, mass, dt):
    i = 0
    while i < n:
        j = i + 1
        while j < n:
            dx = x[i] - x[j]
            dy = y[i] - y[j]
            dz = z[i] - z[j]
            distance = dx * dx + dy * dy + dz * dz
            mag = dt / (distance * math.sqrt(distance))
            mi = mass[i]
            mj = mass[j]
            vx[i] = vx[i] - dx * mj * mag
            vy[i] = vy[i] - dy * mj * mag
            vz[i] = vz[i] - dz * mj * mag
            vx[j] = vx[j] + dx * mi * mag
            vy[j] = vy[j] + dy * mi * mag
            vz[j] = vz[j] + dz * mi * mag
            j += 1
        i += 1
    i = 0
    while i < n:
        x[i] = x[i] + dt * vx[i]
        y[i] = y[i] + dt * vy[i]
        z[i] = z[i] + dt * vz[i]
        i += 1


def energy(n, x, y, z, vx, vy, vz, mass):
    e = 0.0
    for i in range(n):
        e += 0.5 * mass[i] * (vx[i] * vx[i] + vy[i] * vy[i] + vz[i] * vz[i])
        for j in range(i + 1, n):
            dx = x[i] - x[j]
            dy = y[i] - y[j]
            dz = z[i] - z[j]
            e -= mass[i] * mass[j] / math.sqrt(dx * dx + dy * dy + dz * dz)
    return e


def run(n):
    x = [0.0, 4.84143144246472090, 8.34336671824457987, 12.8943695621391310, 15.3796971148509165]
    y = [0.0, -1.16032004402742839, 4.12479856412430479, -15.1111514016986312, -25.9193146099879641]
    z = [0.0, -0.103622044471123109, -0.403523417114321381, -0.223307578892655734, 0.179258772950371181]
    vx = [0.0, 0.00166007664274403694, -0.00276742510726411, 0.00296460137564761618, 0.00268067772490389322]
    vy = [0.0, 0.00769901118419740425, 0.00499852801234917238, 0.00237847173959480950, 0.00162824170038242295]
    vz = [0.0, -0.0000690460016972063023, 0.0000230417297573763929, -0.0000296589568540237556, -0.000095159225451971587]
    mass = [SOLAR_MASS, 0.000954791938424326609 * SOLAR_MASS, 0.000285885980666130812 * SOLAR_MASS,
            0.0000436624404335156298 * SOLAR_MASS, 0.0000515138902046611451 * SOLAR_MASS]
    px = 0.0
    py = 0.0
    pz = 0.0
    for i in range(1, 5):
        vx[i] = vx[i] * DAYS
        vy[i] = vy[i] * DAYS
        vz[i] = vz[i] * DAYS
        px += vx[i] * mass[i]
        py += vy[i] * mass[i]
        pz += vz[i] * mass[i]
    vx[0] = -px / SOLAR_MASS
    vy[0] = -py / SOLAR_MASS
    vz[0] = -pz / SOLAR_MASS
    for _ in range(40 * n):
        step(5, x, y, z, vx, vy, vz, mass, 0.01)
    return energy(5, x, y, z, vx, vy, vz, mass)


for k in range(1, 5):
    print(k, run(k))
    print("%.9f" % run(k))
