/* Threads that come and go in any order with the arena, and what they leave open. */
#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

static uint32_t attached(jita_arena *arena) {
    jita_stats stats;
    stats.size = sizeof stats;
    OK(jita_stats_read(arena, &stats));
    return (uint32_t)stats.attached_threads;
}

static void run(void *(*body)(void *), void *argument) {
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, body, argument) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
}

static jita_arena *arena;
static void *word;

/* Exits inside code, parked, inside a write scope, with blocks and retired code. */
static void *leaves_all_open(void *argument) {
    jita_block block;
    void *rx;
    for (uint32_t i = 0; i < 100; i++) {
        void *code = install(arena, i);
        if (i % 2) {
            OK(jita_free(code));
        }
    }
    OK(jita_enter(arena, &word, &rx));
    OK(jita_enter(arena, &word, &rx));
    OK(jita_park(arena));
    OK(jita_enter(arena, &word, &rx));
    OK(jita_enter(arena, NULL, NULL));
    OK(jita_park(arena));
    OK(jita_alloc(arena, 100, 0, 1, &block));
    OK(jita_write_open(arena));
    OK(jita_alloc(arena, 100, 0, 1, &block));
    emit_constant(block.rw, 5);
    OK(jita_alloc(arena, 100, 0, 1, &block));
    return argument;
}

/* Destructors of pthread keys come in any order, and after those of C++ and Rust:
 * the library has let go of the thread once, and does so again. */
static pthread_key_t key;

static void frees_at_the_end(void *code) {
    RETURNS(JITA_ERROR_MIDDLE, jita_free((char *)code + 1));
    CHECK(jita_last_error()[0] != 0);
    OK(jita_free(code));
    void *rx = NULL, *last = install(arena, 3);
    OK(jita_enter(arena, &last, &rx));
    CHECK(call(rx) == 3);
    OK(jita_free(last));
    RETURNS(JITA_ERROR_FREED, jita_free(last));
}

static void *frees_as_it_exits(void *code) {
    /* Attached, so that there is something to end before the key's destructor. */
    OK(jita_free(install(arena, 1)));
    CHECK(pthread_setspecific(key, code) == 0);
    return NULL;
}

/* The library hears of this thread in its destructor only. */
static void *frees_as_it_exits_only(void *code) {
    CHECK(pthread_setspecific(key, code) == 0);
    return NULL;
}

static void *frees(void *code) {
    OK(jita_free(code));
    return NULL;
}

static void *destroys_as_it_exits_too(void *argument) {
    OK(jita_destroy(argument));
    return NULL;
}

/* Two threads inside code of an arena that the main thread destroys. */
static pthread_barrier_t barrier;

static void *stays_inside(void *argument) {
    jita_arena *short_lived = argument;
    jita_block block;
    void *rx = NULL, *mine = install(short_lived, 77);
    OK(jita_enter(short_lived, &mine, &rx));
    OK(jita_park(short_lived));
    pthread_barrier_wait(&barrier);
    pthread_barrier_wait(&barrier); /* destroyed in between */
    RETURNS(JITA_ERROR_HANDLE, jita_alloc(short_lived, 16, 0, 1, &block));
    RETURNS(JITA_ERROR_HANDLE, jita_enter(short_lived, &mine, &rx));
    CHECK(call(rx) == 77); /* still there */
    OK(jita_unpark(short_lived));
    OK(jita_park(short_lived)); /* it may block in there */
    OK(jita_unpark(short_lived));
    CHECK(call(rx) == 77);
    OK(jita_safepoint(short_lived));
    OK(jita_exit(short_lived)); /* lets go of the arena */
    RETURNS(JITA_ERROR_STATE, jita_exit(short_lived));
    RETURNS(JITA_ERROR_STATE, jita_detach(short_lived));
    return NULL;
}

static void *writes_meanwhile(void *argument) {
    jita_arena *short_lived = argument;
    jita_block block;
    OK(jita_write_open(short_lived));
    OK(jita_alloc(short_lived, CONSTANT_LEN, 0, 1, &block));
    pthread_barrier_wait(&barrier);
    pthread_barrier_wait(&barrier);
    emit_constant(block.rw, 3);
    OK(jita_write_close(short_lived));
    RETURNS(JITA_ERROR_HANDLE, jita_publish(short_lived, block.rx));
    return NULL;
}

static void destroys_under_threads(void) {
    jita_arena *short_lived = create(NULL, 0);
    pthread_t threads[2];
    CHECK(pthread_barrier_init(&barrier, NULL, 3) == 0);
    CHECK(pthread_create(&threads[0], NULL, stays_inside, short_lived) == 0);
    CHECK(pthread_create(&threads[1], NULL, writes_meanwhile, short_lived) == 0);
    pthread_barrier_wait(&barrier);
    OK(jita_destroy(short_lived));
    pthread_barrier_wait(&barrier);
    for (int i = 0; i < 2; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
    }
    pthread_barrier_destroy(&barrier);
}

/* Threads create and destroy arenas, and free by addresses that may be gone. */
static void *creates_and_destroys(void *argument) {
    for (int i = 0; i < 40; i++) {
        jita_options options;
        jita_arena *own;
        memset(&options, 0, sizeof options);
        options.size = sizeof options;
        options.reserve = 1 << 20;
        OK(jita_create(&options, &own));
        void *code = install(own, 1);
        CHECK(call(code) == 1);
        if (i % 2) {
            OK(jita_free(code));
        }
        CHECK(jita_contains(own, code));
        OK(jita_destroy(own));
        CHECK(!jita_contains(own, code));
    }
    return argument;
}

/* A child is forked while threads look at arenas, and destroys one itself. */
static void *looks(void *done) {
    while (!__atomic_load_n((int *)done, __ATOMIC_RELAXED)) {
        jita_code code;
        OK(jita_lookup(word, &code));
        CHECK(jita_contains(arena, word));
    }
    return NULL;
}

static void forks_under_threads(void) {
    pthread_t threads[3];
    int done = 0, status;
    for (int i = 0; i < 3; i++) {
        CHECK(pthread_create(&threads[i], NULL, looks, &done) == 0);
    }
    for (int i = 0; i < 20; i++) {
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            alarm(60); /* not to wait for threads that are not here */
            OK(jita_destroy(arena));
            CHECK(!jita_contains(arena, word));
            _exit(5);
        }
        CHECK(waitpid(child, &status, 0) == child);
        CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 5);
    }
    __atomic_store_n(&done, 1, __ATOMIC_RELAXED);
    for (int i = 0; i < 3; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
    }
    CHECK(call(word) == 42);
}

/* A table has so many places, and they are used again. */
static void fills_the_table(void) {
    enum { PLACES = 256 };
    jita_arena *all[PLACES];
    jita_options options;
    memset(&options, 0, sizeof options);
    options.size = sizeof options;
    options.reserve = 1 << 16;
    int count = 0, status;
    while ((status = jita_create(&options, &all[count])) == JITA_OK) {
        CHECK(++count < PLACES);
    }
    CHECK(count == PLACES - 1); /* and the one that all use */
    RETURNS(JITA_ERROR_TOO_MANY, status);
    while (count > 0) {
        OK(jita_destroy(all[--count]));
    }
}

int main(void) {
    arena = create(NULL, 0);
    word = install(arena, 42);
    CHECK(pthread_key_create(&key, frees_at_the_end) == 0);
    for (int i = 0; i < 3; i++) {
        run(leaves_all_open, NULL);
        CHECK(attached(arena) == 1);
        run(frees_as_it_exits, install(arena, 7));
        CHECK(attached(arena) == 1);
        run(frees_as_it_exits_only, install(arena, 7));
        CHECK(attached(arena) == 1);
        run(frees, install(arena, 8));
        CHECK(attached(arena) == 1);
    }
    jita_stats stats;
    stats.size = sizeof stats;
    /* Each pushes as far as it goes, through what all those threads have left. */
    for (int i = 0; i < 100; i++) {
        OK(jita_collect(arena));
        OK(jita_stats_read(arena, &stats));
        if (stats.retired_executors == 0) {
            break;
        }
    }
    OK(jita_verify(arena));
    CHECK(stats.live_executors == 1 + 3 * 50 && stats.retired_executors == 0);

    for (int i = 0; i < 5; i++) {
        destroys_under_threads();
    }
    pthread_t threads[4];
    for (int i = 0; i < 4; i++) {
        CHECK(pthread_create(&threads[i], NULL, creates_and_destroys, NULL) == 0);
    }
    for (int i = 0; i < 4; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
    }
    forks_under_threads();
    fills_the_table();
    run(destroys_as_it_exits_too, arena);
    /* The main thread is attached to an arena that is gone, and exits so. */
    return 0;
}
