// The header in C++, and destructors in the place of calls that end things.
#include <array>
#include <atomic>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "check.h"

namespace {

void check(jita_status status) {
    if (status < 0) {
        throw std::runtime_error(std::string(jita_error_name(status)) + ": " +
                                 jita_last_error());
    }
}

struct Free {
    void operator()(void *code) const { OK(jita_free(code)); }
};
using Code = std::unique_ptr<void, Free>;

class Arena {
  public:
    Arena() { check(jita_create(nullptr, &handle_)); }
    Arena(const Arena &) = delete;
    Arena &operator=(const Arena &) = delete;
    ~Arena() { OK(jita_destroy(handle_)); }
    jita_arena *get() const { return handle_; }

  private:
    jita_arena *handle_ = nullptr;
};

class Scope {
  public:
    explicit Scope(const Arena &arena) : arena_(arena.get()) { check(jita_write_open(arena_)); }
    Scope(const Scope &) = delete;
    Scope &operator=(const Scope &) = delete;
    ~Scope() { OK(jita_write_close(arena_)); }

  private:
    jita_arena *arena_;
};

class Entered {
  public:
    Entered(const Arena &arena, const std::atomic<void *> &word) : arena_(arena.get()) {
        static_assert(sizeof word == sizeof(void *), "an atomic pointer is a pointer");
        check(jita_enter(arena_, reinterpret_cast<void *const *>(&word), &rx_));
    }
    Entered(const Entered &) = delete;
    Entered &operator=(const Entered &) = delete;
    ~Entered() { OK(jita_exit(arena_)); }
    std::uint32_t operator()() const { return call(rx_); }

  private:
    jita_arena *arena_;
    void *rx_ = nullptr;
};

Code compile(const Arena &arena, std::uint32_t value) {
    jita_block block{};
    check(jita_alloc(arena.get(), CONSTANT_LEN, 0, 1, &block));
    {
        Scope scope(arena);
        emit_constant(block.rw, value);
    }
    check(jita_publish(arena.get(), block.rx));
    return Code(block.rx);
}

} // namespace

int main() {
    Arena arena;
    std::atomic<void *> word{compile(arena, 0).release()};
    std::atomic<bool> done{false};
    std::vector<std::thread> threads;
    for (int i = 0; i < 3; i++) {
        threads.emplace_back([&] {
            std::uint32_t newest = 0;
            while (!done.load(std::memory_order_relaxed)) {
                Entered entered(arena, word);
                const std::uint32_t version = entered();
                CHECK(version >= newest);
                newest = version;
            }
        });
    }
    for (std::uint32_t version = 1; version <= 2000; version++) {
        const Code old(word.exchange(compile(arena, version).release()));
    }
    done = true;
    for (auto &thread : threads) {
        thread.join();
    }
    const Code last(word.exchange(nullptr));
    bool thrown = false;
    try {
        // An exception leaves the scope open no longer than it lasts.
        Scope scope(arena);
        jita_block block;
        check(jita_alloc(arena.get(), 0, 0, 1, &block));
    } catch (const std::runtime_error &error) {
        thrown = std::string(error.what()).find("invalid argument: ") == 0;
    }
    CHECK(thrown);
    RETURNS(JITA_ERROR_STATE, jita_write_close(arena.get()));
    return 0;
}
