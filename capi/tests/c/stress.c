/* Threads install, replace, run, free and park against each other for some seconds.
 *
 *     stress [SECONDS [THREADS [STRATEGY]]]
 *
 * Every piece of code returns a number that says which word it belongs in, and is
 * checked each time it runs. At the end all is freed and the arena verified. */
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <time.h>

#include "check.h"

enum { WORDS = 64, MOST_THREADS = 128, BATCH = 16 };

static jita_arena *arena;
static _Atomic(void *) words[WORDS];
static atomic_int done;

typedef struct worker {
    pthread_t thread;
    uint64_t random;
    uint64_t calls, installs, frees, parks, exhausted;
} worker;

static uint32_t draw(worker *self, uint32_t bound) {
    self->random = self->random * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((self->random >> 33) % bound);
}

/* A number that belongs in word `at`. */
static uint32_t value_of(worker *self, uint32_t at) {
    return draw(self, 1u << 24) * WORDS + at;
}

static void check_entered(void *rx, uint32_t at) { CHECK(call(rx) % WORDS == at); }

/* Replaces what is in some words by code written in one scope. */
static void replace(worker *self) {
    jita_block blocks[BATCH];
    uint32_t values[BATCH], count = 1 + draw(self, BATCH);
    OK(jita_write_open(arena));
    for (uint32_t i = 0; i < count; i++) {
        values[i] = value_of(self, draw(self, WORDS));
        size_t padding = draw(self, 4) == 0 ? draw(self, 20000) : draw(self, 600);
        int status = jita_alloc(arena, LOAD_LEN + padding, 4 + draw(self, 300), 4, &blocks[i]);
        if (status == JITA_ERROR_EXHAUSTED) {
            /* Many threads on few processors: those that lost theirs inside code hold
             * up what all others have freed meanwhile. */
            count = i;
            self->exhausted++;
            break;
        }
        OK(status);
        emit_load(blocks[i].rw, blocks[i].data);
        memcpy((char *)blocks[i].rw + blocks[i].data, &values[i], sizeof values[i]);
    }
    OK(jita_write_close(arena));
    for (uint32_t i = 0; i < count; i++) {
        OK(jita_publish(arena, blocks[i].rx));
        void *old = atomic_exchange(&words[values[i] % WORDS], blocks[i].rx);
        if (old != NULL) {
            OK(jita_free(old));
            self->frees++;
        }
    }
    self->installs += count;
    if (count == 0) {
        sched_yield();
    }
}

/* Runs what is in a word, perhaps for long, perhaps asleep, perhaps nested. */
static void run(worker *self, int depth) {
    uint32_t at = draw(self, WORDS);
    void *rx = NULL;
    int status = jita_enter(arena, (void *const *)&words[at], &rx);
    if (status == JITA_EMPTY) {
        return;
    }
    OK(status);
    check_entered(rx, at);
    switch (draw(self, 8)) {
    case 0:
        for (int i = 0; i < 50; i++) {
            OK(jita_safepoint(arena));
            check_entered(rx, at);
        }
        break;
    case 1:
        OK(jita_park(arena));
        if (draw(self, 16) == 0) {
            struct timespec nap = {0, 100000};
            nanosleep(&nap, NULL);
        }
        if (depth < 3) {
            run(self, depth + 1);
        }
        OK(jita_unpark(arena));
        self->parks++;
        break;
    case 2:
        if (depth < 3) {
            run(self, depth + 1);
            replace(self); /* a helper compiles */
        }
        break;
    default:
        break;
    }
    check_entered(rx, at);
    jita_code code;
    OK(jita_lookup((char *)rx + 3, &code));
    CHECK(code.code == rx && code.data_len >= 4);
    OK(jita_exit(arena));
    self->calls++;
}

/* Runs many under one enter, loading each word itself. */
static void run_many(worker *self) {
    OK(jita_enter(arena, NULL, NULL));
    for (uint32_t i = 0; i < WORDS; i++) {
        void *rx = atomic_load_explicit(&words[i], memory_order_acquire);
        if (rx != NULL) {
            check_entered(rx, i);
            self->calls++;
        }
    }
    OK(jita_exit(arena));
}

/* Code that nobody else has ever seen, freed as quiescent. */
static void keep_to_itself(worker *self) {
    uint32_t value = value_of(self, 0);
    unsigned char code[CONSTANT_LEN];
    void *own = NULL;
    emit_constant(code, value);
    int status = jita_install(arena, code, sizeof code, NULL, 0, &own);
    if (status == JITA_ERROR_EXHAUSTED) {
        self->exhausted++;
        return;
    }
    OK(status);
    CHECK(call(own) == value);
    OK(jita_free_quiescent(own));
    self->installs++;
    self->frees++;
}

static void empty(worker *self) {
    void *old = atomic_exchange(&words[draw(self, WORDS)], NULL);
    if (old != NULL) {
        OK(jita_free(old));
        self->frees++;
    }
}

static void *work(void *argument) {
    worker *self = argument;
    while (!atomic_load_explicit(&done, memory_order_relaxed)) {
        switch (draw(self, 16)) {
        case 0:
            empty(self);
            break;
        case 1:
            keep_to_itself(self);
            break;
        case 2:
        case 3:
        case 4:
            replace(self);
            break;
        case 5:
            run_many(self);
            break;
        default:
            run(self, 0);
            break;
        }
        if (draw(self, 5000) == 0) {
            OK(jita_detach(arena));
        }
    }
    return NULL;
}

int main(int count, char **arguments) {
    static worker workers[MOST_THREADS];
    double seconds = count > 1 ? atof(arguments[1]) : 1;
    int threads = count > 2 ? atoi(arguments[2]) : 4;
    CHECK(seconds > 0 && threads > 0 && threads <= MOST_THREADS);
    jita_options options;
    memset(&options, 0, sizeof options);
    options.size = sizeof options;
    options.strategy = count > 3 ? arguments[3] : NULL;
    int status = jita_create(&options, &arena);
    if (status == JITA_ERROR_OS && count > 3) {
        printf("not run: %s: %s\n", arguments[3], jita_last_error());
        return 0;
    }
    OK(status);
    for (int i = 0; i < threads; i++) {
        workers[i].random = (uint64_t)i + 1;
        CHECK(pthread_create(&workers[i].thread, NULL, work, &workers[i]) == 0);
    }
    struct timespec rest = {(time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9)};
    nanosleep(&rest, NULL);
    atomic_store(&done, 1);
    worker all = {0};
    for (int i = 0; i < threads; i++) {
        CHECK(pthread_join(workers[i].thread, NULL) == 0);
        all.calls += workers[i].calls;
        all.installs += workers[i].installs;
        all.frees += workers[i].frees;
        all.parks += workers[i].parks;
        all.exhausted += workers[i].exhausted;
    }
    for (int i = 0; i < WORDS; i++) {
        void *old = atomic_exchange(&words[i], NULL);
        if (old != NULL) {
            OK(jita_free(old));
            all.frees++;
        }
    }
    jita_stats stats;
    stats.size = sizeof stats;
    /* Each pushes as far as it goes; many threads have left much to push. */
    for (int i = 0; i < 100; i++) {
        OK(jita_collect(arena));
        OK(jita_stats_read(arena, &stats));
        if (stats.retired_executors == 0) {
            break;
        }
    }
    OK(jita_verify(arena));
    CHECK(stats.live_executors == 0 && stats.retired_executors == 0);
    CHECK(stats.installs == all.installs && stats.retires == all.frees);
    CHECK(stats.recycles == stats.installs);
    OK(jita_destroy(arena));
    CHECK(all.calls > 0 && all.installs > 0);
    printf("{\"threads\":%d,\"calls\":%llu,\"installs\":%llu,\"parks\":%llu,\"exhausted\":%llu}\n",
           threads, (unsigned long long)all.calls, (unsigned long long)all.installs,
           (unsigned long long)all.parks, (unsigned long long)all.exhausted);
    return 0;
}
