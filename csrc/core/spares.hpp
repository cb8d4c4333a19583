#pragma once

#include <deque>
#include <mutex>
#include <utility>
#include <vector>

namespace chronoward {

/// State that calls add to, each to one that no other call has now: there are as many of them as
/// calls ran at once.
template <typename T>
class Spares {
 public:
  explicit Spares(T fresh) : fresh_(std::move(fresh)), all_{fresh_}, idle_{&all_.front()} {}

  /// Calls fn with one of them.
  template <typename Fn>
  void lend(const Fn& fn) {
    const Loan loan(*this);
    fn(*loan.state);
  }

  /// All of them; for when none is lent.
  const std::deque<T>& all() const { return all_; }

 private:
  struct Loan {
    explicit Loan(Spares& spares) : owner(spares), state(spares.take()) {}
    ~Loan() { owner.give_back(state); }
    Loan(const Loan&) = delete;
    Loan& operator=(const Loan&) = delete;

    Spares& owner;
    T* state;
  };

  T* take() {
    const std::lock_guard lock(mutex_);
    if (idle_.empty()) {
      idle_.reserve(all_.size() + 1);  // so that giving back cannot fail
      return &all_.emplace_back(fresh_);
    }
    T* const last = idle_.back();
    idle_.pop_back();
    return last;
  }

  void give_back(T* state) {
    const std::lock_guard lock(mutex_);
    idle_.push_back(state);
  }

  std::mutex mutex_;
  const T fresh_;
  std::deque<T> all_;  // never moves what it holds
  std::vector<T*> idle_;
};

}  // namespace chronoward
