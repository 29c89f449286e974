/* What the flags of jita_options do, where it can be seen from outside. */
#include <errno.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

/* The status of a forked child that calls `code`; 0 if that returns `value`. */
static int status_of_child(const void *code, uint32_t value) {
    int status;
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        /* In place of a sanitizer's. */
        signal(SIGSEGV, SIG_DFL);
        signal(SIGBUS, SIG_DFL);
        _exit(call(code) != value);
    }
    CHECK(waitpid(child, &status, 0) == child);
    return status;
}

static int is_fault(int status) {
    return WIFSIGNALED(status) &&
           (WTERMSIG(status) == SIGSEGV || WTERMSIG(status) == SIGBUS);
}

static void goes_on(jita_arena *arena, void *code) {
    CHECK(call(code) == 7);
    OK(jita_free(code));
    code = install(arena, 8);
    CHECK(call(code) == 8);
    OK(jita_free(code));
    OK(jita_collect(arena));
    OK(jita_verify(arena));
    OK(jita_destroy(arena));
}

/* What was written before a fork is not published in a child without memory. */
static void publishes_nothing_in_a_child(jita_arena *arena) {
    jita_block block;
    int status;
    OK(jita_alloc(arena, CONSTANT_LEN, 0, 1, &block));
    OK(jita_write_open(arena));
    emit_constant(block.rw, 9);
    OK(jita_write_close(arena));
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        signal(SIGSEGV, SIG_DFL);
        signal(SIGBUS, SIG_DFL);
        _exit(jita_publish(arena, block.rx) != JITA_ERROR_OS);
    }
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(status == 0);
    OK(jita_publish(arena, block.rx));
    CHECK(call(block.rx) == 9);
    OK(jita_free(block.rx));
}

static void has_children_without_code(const char *strategy) {
    jita_arena *arena = create(strategy, 0);
    if (arena == NULL) {
        return;
    }
    void *code = install(arena, 7);
    CHECK(status_of_child(code, 7) == 0);
    goes_on(arena, code);
    arena = create(strategy, JITA_NO_FORKS);
    code = install(arena, 7);
    CHECK(is_fault(status_of_child(code, 7)));
    publishes_nothing_in_a_child(arena);
    goes_on(arena, code);
    printf("JITA_NO_FORKS, %s: ok\n", strategy);
}

static void cannot_be_changed(const char *strategy) {
    if (strcmp(strategy, "mprotect") == 0) {
        jita_options options;
        jita_arena *none = NULL;
        memset(&options, 0, sizeof options);
        options.size = sizeof options;
        options.strategy = strategy;
        options.flags = JITA_SEALED;
        RETURNS(JITA_ERROR_OS, jita_create(&options, &none));
        CHECK(none == NULL && strstr(jita_last_error(), "sealed") != NULL);
        return;
    }
    jita_arena *arena = create(strategy, JITA_SEALED);
    if (arena == NULL) {
        return;
    }
    void *code = install(arena, 7);
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    char *start = (char *)code - (uintptr_t)code % page;
    CHECK(mprotect(start, page, PROT_READ | PROT_WRITE) == -1 && errno == EPERM);
    CHECK(munmap(start, page) == -1 && errno == EPERM);
    CHECK(is_fault(status_of_child(code, 7)));
    goes_on(arena, code);
    printf("JITA_SEALED, %s: ok\n", strategy);
}

int main(void) {
    for (size_t i = 0; i < STRATEGY_COUNT; i++) {
        has_children_without_code(STRATEGIES[i]);
        cannot_be_changed(STRATEGIES[i]);
    }
    return 0;
}
