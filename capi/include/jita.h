// jit-arena: code memory for multi-threaded JITs. The C interface.
//
// Made from capi/src by capi/tests/header.rs, which says how to make it anew.
//
// What holds for all of it, where a function does not say otherwise:
//
// - Functions return JITA_OK, JITA_EMPTY or an error (below zero), after which
//   nothing has changed. jita_last_error has the message.
// - Errors that are not listed with each function: JITA_ERROR_NULL for a pointer that
//   must not be null, JITA_ERROR_HANDLE for an arena's handle; where the call attaches
//   the thread, JITA_ERROR_NOT_ATTACHED if it may not do that unasked, and
//   JITA_ERROR_OS if the system has no place for a thread's state; JITA_ERROR_BUG.
// - Any thread may call, several at once. What a thread opens, enters, parks or
//   allocates it closes, exits, unparks and publishes itself. Code that is published
//   belongs to no thread.
// - Pointers that are passed are read or written during the call only. Addresses of
//   code belong to the arena. Nothing that is returned is to be given to free().
// - Panics do not cross into C. Functions that C passes must not throw or jump out.
//   When the process is out of heap memory it aborts with a message.
// - After fork() parent and child both go on, each with code memory of its own, but
//   for arenas with JITA_NO_FORKS or JITA_SEALED. The child has the thread that
//   forked, with all that it has open, and no other.
// - In signal handlers only jita_lookup, jita_contains and jita_error_name may be
//   called.
// - The shared library stays loaded once it is loaded.

#ifndef JITA_H
#define JITA_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

// It was done.
#define JITA_OK 0

// There was nothing to enter. Not an error.
#define JITA_EMPTY 1

// A pointer is null that must not be.
#define JITA_ERROR_NULL -1

// An argument is out of range: a size, an alignment, an option, a name.
#define JITA_ERROR_INVALID -2

// No arena has this handle: it was destroyed, or never was.
#define JITA_ERROR_HANDLE -3

// The call is out of order: an exit without an enter, code entered inside a
// write scope, a detach in the middle of something. The message says what.
#define JITA_ERROR_STATE -4

// The address is not in the code memory of any arena.
#define JITA_ERROR_FOREIGN -5

// The address is in the middle of code, not its first instruction.
#define JITA_ERROR_MIDDLE -6

// The code was freed before.
#define JITA_ERROR_FREED -7

// The address is code memory, and no code starts there: it was freed before and
// its memory recycled, or it is another thread's and not published yet.
#define JITA_ERROR_NOT_CODE -8

// No write scope was open and closed since the block was allocated.
#define JITA_ERROR_UNWRITTEN -9

// The block was written after the write scope it was allocated in. With the
// strategy mprotect that is too late.
#define JITA_ERROR_SEALED -10

// No room is left in the arena, or in its budget. Free code.
#define JITA_ERROR_EXHAUSTED -11

// The operating system refused something, or the environment asks for what there
// is not.
#define JITA_ERROR_OS -12

// The thread is not attached, and the arena was created with
// JITA_EXPLICIT_ATTACH.
#define JITA_ERROR_NOT_ATTACHED -13

// There are as many arenas already as there can be.
#define JITA_ERROR_TOO_MANY -14

// No trampoline can serve the branch: it is outside the arena, or the arena is
// longer than branches reach.
#define JITA_ERROR_REACH -15

// The size of a struct is none that the library knows, or what lies beyond the
// part that it knows is not zero.
#define JITA_ERROR_VERSION -16

// An invariant does not hold, or the library has panicked: a bug, or memory
// that was written by somebody else.
#define JITA_ERROR_BUG -17

// Level of a log message: something was refused.
#define JITA_LOG_ERROR 1

// Level of a log message: something is odd.
#define JITA_LOG_WARNING 2

// Level of a log message: what was chosen and done.
#define JITA_LOG_INFO 3

// Flag of jita_options: threads attach by jita_attach only. Without it each
// thread attaches as it first uses an arena. jita_free works on any thread.
#define JITA_EXPLICIT_ATTACH 1

// Flag of jita_options: move memory into huge pages where the system grants it.
#define JITA_HUGE_PAGES 2

// Flag of jita_options: prefer anonymous memory to a memory file.
#define JITA_ANONYMOUS 4

// Flag of jita_options: leave to chance where the code memory and the writable view
// of it lie, and in which order it is used; within reach of near_address, if given.
#define JITA_RANDOM_PLACEMENT 8

// Flag of jita_options: forked children have no code memory, and fork() takes no
// time to copy it. For programs whose children do nothing but exec() or _exit(): a
// child that runs code faults, and what it would write is refused.
#define JITA_NO_FORKS 16

// Flag of jita_options: seal the code memory, so that nobody in the process can
// unmap, move or replace it or change its rights until the process ends. Its address
// space stays taken after jita_destroy, and forked children have no code memory, as
// with JITA_NO_FORKS. Needs mseal(), of Linux 6.10; jita_create returns
// JITA_ERROR_OS where there is none, and with the strategy mprotect, which changes
// rights, and dual-transient with JITA_ANONYMOUS, which maps the memory again.
#define JITA_SEALED 32

// An arena. A handle is never followed: any value is safe to pass, and a wrong
// one is an error.
typedef struct jita_arena jita_arena;

// What functions return that can fail: JITA_OK, JITA_EMPTY, or an error, which is
// below zero. After an error nothing has changed, where the function does not say
// otherwise. Of the functions that cannot fail, jita_contains returns 1 or 0,
// jita_version, jita_error_name and jita_last_error return text, and jita_set_log and
// jita_abort_on_misuse nothing.
typedef int jita_status;

// Receives log messages: the context it was set with, a level (JITA_LOG_ERROR
// and so on) and a text that is valid during the call only. It is called on any
// thread, several at a time. It must neither call the library, but for
// jita_error_name, nor throw, nor jump out.
typedef void (*jita_log_fn)(void *context, int level, const char *message);

// How an arena is to be. All but the size may be 0 for the default, as in
// `jita_options options = {.size = sizeof options};`. What it points to is the caller's and is not looked at after jita_create.
typedef struct jita_options {
  // sizeof(jita_options). Tells the library which fields there are.
  size_t size;
  // Address space to reserve in bytes: the most code that can ever live. A
  // multiple of the code page, at most 2 GiB. Default: 256 MiB, on aarch64
  // 128 MiB.
  size_t reserve;
  // Size of a code page in bytes, a power of two up to 256 KiB. Default: 64 KiB.
  size_t code_page;
  // Free memory to keep before it goes back to the system, in bytes. Default:
  // 64 KiB.
  size_t keep_free;
  // The most code memory to hold from the system, in bytes. Default: as much
  // as is reserved.
  size_t code_budget;
  // Address that the code memory should lie near, so that direct branches
  // reach it; a wish. Default: null, anywhere.
  const void *near_address;
  // Name of the protection strategy, such as "dual-pkey", and no other.
  // Default: null, the best that works, or what the environment variable
  // JIT_ARENA_STRATEGY names.
  const char *strategy;
  // Name of the memory in the process's maps, UTF-8. Default: null,
  // "jit-arena".
  const char *name;
  // JITA_EXPLICIT_ATTACH, JITA_HUGE_PAGES, JITA_ANONYMOUS, JITA_RANDOM_PLACEMENT,
  // JITA_NO_FORKS and JITA_SEALED, or 0.
  uint32_t flags;
  // 0.
  uint32_t reserved;
} jita_options;

// Place for code, until it is published. The struct is the caller's and may be
// copied; what it points to is the arena's.
typedef struct jita_block {
  // Address at which the code will run: its first instruction. Nothing is
  // there to be run or read before jita_publish.
  void *rx;
  // Address at which it is written: the same from jita_alloc to jita_publish,
  // and to be written to by the thread that allocated it, inside a write
  // scope. The byte at rw + i will run at rx + i: what refers to a place by its
  // distance counts from rx.
  void *rw;
  // Bytes from the first instruction to the end of the data.
  size_t len;
  // Offset of the data from rx, and from rw.
  size_t data;
} jita_block;

// Sizes and alignments of code and its data. All but the size and code_len may
// be 0 for the default.
typedef struct jita_layout {
  // sizeof(jita_layout).
  size_t size;
  // Bytes of code; 1 at least.
  size_t code_len;
  // Alignment of the code: a power of two up to 4096. Default: 16.
  size_t code_align;
  // Bytes of data behind the code. Default: none.
  size_t data_len;
  // Alignment of the data: a power of two up to 4096. Default: 1.
  size_t data_align;
  // A word of the client's that jita_lookup tells. Default: 0.
  uint64_t tag;
} jita_layout;

// What jita_lookup found. Plain addresses, which keep nothing alive.
typedef struct jita_code {
  // The first instruction.
  const void *code;
  // Bytes of code.
  size_t code_len;
  // The data behind it.
  const void *data;
  // Bytes of data, 0 for none.
  size_t data_len;
  // The tag of its jita_layout.
  uint64_t tag;
} jita_code;

// What an arena holds and has done. Exact while no thread uses it; otherwise each
// figure was true at some moment of the call.
typedef struct jita_stats {
  // sizeof(jita_stats), set by the caller before the call: as much is written.
  size_t size;
  // Pieces of code published and not yet freed.
  uint64_t live_executors;
  // Their bytes of code and data.
  uint64_t live_bytes;
  // Pieces of code freed whose memory is not yet used again.
  uint64_t retired_executors;
  // Their bytes of code and data.
  uint64_t retired_bytes;
  // Bytes that threads have for themselves and no code occupies yet.
  uint64_t claimed_bytes;
  // Bytes of committed memory that are free for all.
  uint64_t hole_bytes;
  // Bytes of the islands that trampolines are in.
  uint64_t island_bytes;
  // Bytes lost to headers, alignment and blocks that are not published: committed, less
  // all of the above.
  uint64_t padding_bytes;
  // Bytes of code memory held from the system, in whole system pages.
  uint64_t committed_bytes;
  // Of these, bytes in huge pages, as far as the library knows.
  uint64_t huge_bytes;
  // Bytes of address space of one view.
  uint64_t reserved_bytes;
  // Pieces of code ever published.
  uint64_t installs;
  // Pieces of code ever freed.
  uint64_t retires;
  // Pieces of code whose memory became free again.
  uint64_t recycles;
  // Lots they were recycled in, each with one synchronisation of all cores.
  uint64_t recycled_lots;
  // Times a thread took memory for itself.
  uint64_t claims;
  // Bytes ever given back to the system.
  uint64_t trimmed_bytes;
  // Times the system refused to close a write window or to synchronise cores. What was
  // concerned waits and is tried again.
  uint64_t refusals;
  // Threads attached now.
  uint64_t attached_threads;
} jita_stats;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// What a status is called, in a few words. Never null; valid for ever. Any
// thread, signal handlers too.
const char *jita_error_name(jita_status status);

// What the last error of the calling thread was and what to do about it; empty
// if there was none. Never null; owned by the library; valid on this thread
// until its next call that returns an error, or its end.
const char *jita_last_error(void);

// Has `log` called with messages from now on, for all arenas of the process;
// null for none, which is how it begins. Any thread; a message of before may
// still be on its way to the function that was set before.
//
// Pointers:
//
// `log` is null or a function as jita_log_fn describes, which may be called
// with `context` until the process ends.
void jita_set_log(jita_log_fn log, void *context);

// Whether misuse (an error that only a bug of the caller's can cause, such as a
// double free) writes its message to standard error and aborts the process in
// place of returning; 0 for no, which is how it begins. What the system, the
// environment or a bug of the library's is to blame for is returned all the same.
// Any thread; for all arenas of the process.
void jita_abort_on_misuse(int aborts);

// The version of the library, such as "0.1.0". Never null; valid for ever. Any
// thread.
const char *jita_version(void);

// Creates an arena and stores its handle to `arena`. Any thread. Makes system
// calls. There can be 256 at a time.
//
// Errors: JITA_ERROR_INVALID or JITA_ERROR_VERSION for the options; JITA_ERROR_OS if
// no protection strategy works here, with each refusal in the message, or the
// environment variable JIT_ARENA_STRATEGY names none that there is, or JITA_SEALED
// cannot be had.
//
// Pointers:
//
// `options` is null, for the defaults, or points to a jita_options as it describes
// itself; `arena` is null or points to a pointer.
jita_status jita_create(const struct jita_options *options, struct jita_arena **arena);

// Destroys an arena: from here on its handle is an error for every call, but
// those that end something (jita_exit, jita_unpark, jita_write_close,
// jita_detach) and, on a thread inside its code, jita_safepoint and jita_park.
// What was not freed goes with it. Any thread; of several that destroy it at once
// one succeeds. The calling thread is detached.
//
// Its memory goes back to the system when the last thread has let go of it, and
// not before, so that no thread that is inside code loses it. Threads let go by
// exiting, by jita_detach, or as they next attach to an arena or end what they are
// in the middle of. Code that a thread runs without jita_enter is the client's to
// have ended.
//
// Errors: JITA_ERROR_STATE if the calling thread is inside code, parked or inside a
// write scope; JITA_ERROR_HANDLE.
jita_status jita_destroy(struct jita_arena *arena);

// Describes the arena for people: its strategy, what was tried before it and why
// that was refused. Writes as much of the text as fits to `text`, ended by a zero
// if `capacity` is not 0, and stores its whole length, without the zero, to `len`.
// Any thread.
//
// Pointers:
//
// `text` is null if `capacity` is 0, otherwise it points to that many bytes; `len`
// is null or points to a size_t.
jita_status jita_report(struct jita_arena *arena,
                        char *text,
                        size_t capacity,
                        size_t *len);

// Stores to `offset` what to add to the address that code runs at to get the one
// it is written at, if that is the same as long as the arena lives, and 1 to
// `is_fixed`; with the strategies dual-transient and mprotect it is another for
// each block, and 0 is stored to both. Any thread.
//
// Pointers:
//
// Both are null or point to their types.
jita_status jita_write_offset(struct jita_arena *arena,
                              ptrdiff_t *offset,
                              int *is_fixed);

// Pushes reclamation as far as it goes at this moment, and gives free memory back
// to the system. Code that threads may be running stays. Lock-free; makes system
// calls.
//
// Errors: JITA_ERROR_STATE inside a write scope.
jita_status jita_collect(struct jita_arena *arena);

// Checks every invariant of the arena's pages, code, index and accounts, while no
// thread installs, frees or collects. For tests: takes time in proportion to the
// memory in use.
//
// Errors: JITA_ERROR_BUG, with what was found.
jita_status jita_verify(struct jita_arena *arena);

// Enters code: from here to jita_exit the thread may run code that it finds.
//
// With a word (an atomic pointer of the client's, out of which code is taken
// before it is freed): loads it, with acquire, and holds the code whose address
// it finds, so that this code stays through safepoints and parks; stores the
// address to `rx`. If the word is null: JITA_EMPTY, and nothing was entered.
//
// Without one (`word` null): all code that the thread loads from such words
// after this call stays until the next jita_safepoint, jita_park or jita_exit.
//
// Nests; each is ended by a jita_exit on the same thread. Wait-free, but for every
// 128th, which helps reclamation and is lock-free; allocates where the thread nests
// deeper than before, and attaches the thread if it is not.
//
// Errors: JITA_ERROR_STATE inside a write scope, where code must not be run.
//
// Pointers:
//
// `word` is null or points to an aligned atomic pointer that lives during the
// call; `rx` is null only if `word` is, otherwise it points to a pointer.
jita_status jita_enter(struct jita_arena *arena, void *const *word, void **rx);

// Ends the last jita_enter of the calling thread. Works after the arena was
// destroyed, too. Wait-free, unless it lets go of an arena that was destroyed.
//
// Errors: JITA_ERROR_STATE if there was none, or the thread is parked in it.
jita_status jita_exit(struct jita_arena *arena);

// Lets reclamation go on, from inside a long loop: code that the thread has
// loaded, and does not hold by a jita_enter with a word, must not be used any
// more after this. Wait-free. To be called inside code. While an outer jita_enter
// without a word is open it does nothing: what that has loaded is still in use.
//
// Errors: JITA_ERROR_STATE if the thread is not inside code, or is parked.
jita_status jita_safepoint(struct jita_arena *arena);

// Says that the thread may block now: until jita_unpark it holds up the
// reclamation of nothing but what it holds by jita_enter with a word. Code that
// it has loaded otherwise must not be used any more. Nests: a parked thread may
// enter code again, and exits it before it is unparked. While an outer jita_enter
// without a word is open, the thread goes on holding up reclamation. Wait-free, but
// allocates where the thread nests deeper than before, and attaches it if it is not.
//
// Errors: JITA_ERROR_STATE inside a write scope. JITA_ERROR_HANDLE for an arena that
// was destroyed, unless the thread is inside its code.
jita_status jita_park(struct jita_arena *arena);

// Ends the last jita_park of the calling thread: it runs code again. Works after
// the arena was destroyed, too. As wait-free as jita_enter and jita_exit.
//
// Errors: JITA_ERROR_STATE if it is not parked, or has entered code since.
jita_status jita_unpark(struct jita_arena *arena);

// Attaches the calling thread: gives it what it needs to install and run code.
// Counted: as many jita_detach take it back. A thread that exits detaches, so
// calling neither is fine, unless the arena has JITA_EXPLICIT_ATTACH. Allocates.
jita_status jita_attach(struct jita_arena *arena);

// Ends one jita_attach of the calling thread, or one that a call did unasked.
// With the last the thread lets go of the arena: blocks that it has not
// published are given back.
//
// Errors: JITA_ERROR_STATE if the thread is not attached, or with the last is parked,
// inside code or inside a write scope.
jita_status jita_detach(struct jita_arena *arena);

// Opens a write scope: until jita_write_close the calling thread, and no other,
// may write the blocks that it has allocated, at their rw. Nests; code cannot be
// entered in it. Allocating several blocks in one scope is cheapest, and with the
// strategies dual-transient and mprotect by far; with mprotect such blocks are to
// be written in the scope they were allocated in. Wait-free, but attaches the thread
// if it is not.
//
// Errors: none but those of attaching; on a thread that is attached it cannot fail,
// as long as the arena is not destroyed.
jita_status jita_write_open(struct jita_arena *arena);

// Closes the write scope that the calling thread opened last. Wait-free with the
// strategies that keep writable memory mapped, but for giving up what is left of a
// long block, which is lock-free. With dual-transient and mprotect it copies the
// blocks, and makes system calls for each claim that they lie in. Works after the
// arena was destroyed, too.
//
// Errors: JITA_ERROR_STATE if none is open. JITA_ERROR_OS if the system refused
// to open a window: the scope is closed then; what was written is still there, and
// can be brought in by another scope. A window that it refused to close is left to
// jita_publish.
jita_status jita_write_close(struct jita_arena *arena);

// Allocates place for `code_len` bytes of code and `data_len` of data behind it,
// which is aligned to `data_align` (a power of two up to 4096; 1 puts it straight
// behind the code); stores where it is to `block`. The code is aligned to 16 and
// to `data_align`. The block is the calling thread's until it publishes or frees
// it, and ends with the thread or its detaching. What is in it before it is
// written is not defined.
//
// Lock-free, now and then with system calls, under every strategy: to commit memory,
// and to synchronise cores where memory is used again. May yield the processor then.
// Where the arena is full it lets other threads run before it fails: it yields, and
// sleeps up to about half a second if one of them holds reclamation up, or some
// seconds while a fork is copied.
//
// Errors: JITA_ERROR_INVALID for no code, more than 4 MiB or than the arena's
// reserve, or an alignment that is none; JITA_ERROR_EXHAUSTED, JITA_ERROR_OS.
//
// Pointers:
//
// `block` is null or points to a jita_block.
jita_status jita_alloc(struct jita_arena *arena,
                       size_t code_len,
                       size_t data_len,
                       size_t data_align,
                       struct jita_block *block);

// As jita_alloc, with all that can be asked for.
//
// Errors: those of jita_alloc, and JITA_ERROR_VERSION for the size of `layout`.
//
// Pointers:
//
// `layout` and `block` are null or point to their structs.
jita_status jita_alloc_layout(struct jita_arena *arena,
                              const struct jita_layout *layout,
                              struct jita_block *block);

// Publishes the block that starts at `rx`: from here on it can be run, on any
// thread that learns of its address by a release and an acquire, and is never
// written again. Its rw is invalid from here on. On the thread that allocated it.
//
// Wait-free with the strategies that keep writable memory mapped. With dual-transient
// and mprotect it compares all that is at rw with what was copied, for which it
// allocates, and closes a window that the system refused to close before.
//
// Errors: JITA_ERROR_UNWRITTEN, JITA_ERROR_SEALED, JITA_ERROR_STATE inside a write
// scope or for a block that was published before; JITA_ERROR_NOT_CODE,
// JITA_ERROR_MIDDLE and JITA_ERROR_FOREIGN for an `rx` that is no block of this
// thread's; JITA_ERROR_OS if the system refuses again to close a window: call it once
// more later. The block stays what it was.
jita_status jita_publish(struct jita_arena *arena, const void *rx);

// Allocates, writes and publishes code with data straight behind it, both as they
// are, and stores the address of the first instruction to `rx`. Not to be called
// inside a write scope. Takes what jita_alloc takes, and with the strategies
// dual-transient and mprotect system calls to open and close a window.
//
// Errors: JITA_ERROR_STATE inside a write scope; JITA_ERROR_INVALID for no code, or
// more than 4 MiB or than the arena's reserve; JITA_ERROR_EXHAUSTED; JITA_ERROR_OS if
// the system has no memory, or refused to open or close the window.
//
// Pointers:
//
// `code` points to `code_len` bytes, `data` to `data_len`, and may be null if that
// is 0; `rx` is null or points to a pointer.
jita_status jita_install(struct jita_arena *arena,
                         const void *code,
                         size_t code_len,
                         const void *data,
                         size_t data_len,
                         void **rx);

// Frees the code whose first instruction is at `rx`, on any thread, attached or
// not, at any time: as soon as no thread can be running it any more, its memory
// is used again. Take its address out of every place where threads find it first.
// A block that the calling thread has not published is given back.
//
// On a thread that is attached mostly wait-free. One call in at most 64, of many
// threads one in a few, passes on what was freed, and every 128th helps reclamation:
// those are lock-free, and the former may yield the processor where 16 threads or more
// are attached. On any other thread lock-free; allocates, and attaches the thread, or
// with JITA_EXPLICIT_ATTACH does so for the moment.
//
// Errors, with nothing changed: JITA_ERROR_FREED, JITA_ERROR_NOT_CODE,
// JITA_ERROR_MIDDLE, JITA_ERROR_FOREIGN, JITA_ERROR_NULL. An address that was freed
// and has become other code's since cannot be told from that code: as with free(),
// that code is freed then, in good order, and whoever owned it loses it.
jita_status jita_free(void *rx);

// As jita_free, for code that nobody can be running: its memory is used again
// without waiting for threads that are inside other code.
//
// The caller vouches for this: no thread is inside this code, on any part of its
// stack, nor will enter it, nor has its address from which to do so; and the last
// that was inside has left it before this call, in the sense of C's memory model
// (a reference count that goes down with release, and is seen at zero with acquire,
// makes it so). If that is not true, threads run whatever comes to be there.
//
// Lock-free; allocates.
jita_status jita_free_quiescent(void *rx);

// Looks for the code that `address` lies in, of any arena, and stores what it is
// to `code`; JITA_EMPTY if there is none. Any thread, attached or not, and signal
// handlers. Wait-free.
//
// Code that cannot be freed meanwhile is found: that which the calling thread, or
// the one that a signal has interrupted, runs between jita_enter and jita_exit. For
// any other address the answer is what was there at some moment.
//
// Errors: JITA_ERROR_NULL alone, without a message and a log, for signal handlers.
//
// Pointers:
//
// `code` is null or points to a jita_code.
jita_status jita_lookup(const void *address, struct jita_code *code);

// Whether `address` lies in the arena's code memory: 1 or 0, and 0 for a handle
// that is none. Any thread, and signal handlers. Wait-free.
int jita_contains(struct jita_arena *arena, const void *address);

// Stores to `address` the trampoline to `target`: a jump that a direct branch from
// any place in the arena reaches. The same one for all who ask; it stays as long as
// the arena. Any thread. Wait-free where there is one already; otherwise lock-free,
// and writes it.
//
// Errors: JITA_ERROR_REACH for an arena that is longer than branches reach (use
// jita_call_target), JITA_ERROR_EXHAUSTED, JITA_ERROR_OS.
//
// Pointers:
//
// `address` is null or points to a pointer.
jita_status jita_trampoline(struct jita_arena *arena,
                            const void *target,
                            const void **address);

// Stores to `address` what a direct branch at `from` (an rx address) should branch
// to in order to get to `target`: that itself if it is within reach, otherwise a
// trampoline. Any thread; inside a write scope, too.
//
// Errors: JITA_ERROR_REACH for a `from` outside the arena that does not reach;
// otherwise as jita_trampoline.
//
// Pointers:
//
// `address` is null or points to a pointer.
jita_status jita_call_target(struct jita_arena *arena,
                             const void *from,
                             const void *target,
                             const void **address);

// Makes trampolines to `count` targets at once, four to 64 bytes: for the helpers
// that a runtime knows when it starts. Any thread.
//
// Errors: JITA_ERROR_NULL for `targets` or one of them, JITA_ERROR_EXHAUSTED,
// JITA_ERROR_OS. After the last two some may have been made, and stay.
//
// Pointers:
//
// `targets` points to `count` pointers, or is null if that is 0.
jita_status jita_make_trampolines(struct jita_arena *arena,
                                  const void *const *targets,
                                  size_t count);

// Stores the arena's figures to `stats`, whose size says how many there are. Any
// thread. Reads the counts of each attached thread.
//
// Errors: JITA_ERROR_VERSION for a size that is less than that of its first figure.
//
// Pointers:
//
// `stats` is null or points to as many writable bytes as its size says.
jita_status jita_stats_read(struct jita_arena *arena, struct jita_stats *stats);

// Writes the arena's figures as a JSON object: those of jita_stats by their names,
// "strategy", "memory", and the region's "start". As much of the text as fits goes to
// `text`, ended by a zero if `capacity` is not 0; its whole length, without the
// zero, to `len`. Any thread.
//
// Pointers:
//
// `text` is null if `capacity` is 0, otherwise it points to that many bytes; `len`
// is null or points to a size_t.
jita_status jita_stats_json(struct jita_arena *arena,
                            char *text,
                            size_t capacity,
                            size_t *len);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* JITA_H */
