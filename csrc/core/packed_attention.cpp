#include "core/packed_attention.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <condition_variable>
#include <mutex>
#include <stdexcept>
#include <vector>

#include "core/packed_kernels.hpp"
#include "core/parallel.hpp"

// A task is one part of a segment's queries and one key head. It owns its queries' rows
// of every output. What it adds to keys and values it keeps until the parts before it have added
// theirs, and the sums of the bias parameters are added up task by task at the end: whatever the
// threads, each number is summed in one order.
namespace chronoward {
namespace {

using packed::kNothing;
using packed::kRows;
using packed::kTile;
using packed::tiled;
using packed::tiles;

/// Segments are split into one part for each so many rows: what a part prepares costs time too.
constexpr std::size_t kPartRows = 256;

/// Rows of a segment that make one task with each key head.
struct Part {
  std::size_t start;        // of the segment
  std::size_t first, last;  // its rows, inside the segment
  std::size_t n_keys;       // of the segment, that its rows see
  std::size_t index;        // among the parts of the segment
};

/// The parts of one segment hold about as many causal pairs of query and key each: below row x lie
/// x²/2. They depend on the length alone, so results do not depend on the number of threads.
void split_segment(const PackedRow& row, std::size_t start, std::size_t length,
                   std::vector<Part>& parts) {
  const auto n_parts = std::max<std::size_t>(1, length / kPartRows);
  for (std::size_t p = 0, first = 0, last = length; p < n_parts; ++p, first = last) {
    const double share = static_cast<double>(p + 1) / static_cast<double>(n_parts);
    last = static_cast<std::size_t>(static_cast<double>(length) * std::sqrt(share));
    last = p + 1 == n_parts ? length : last / kRows * kRows;
    auto n_keys = last;
    for (auto i = start + first; !row.kv_end.empty() && i < start + last; ++i) {
      n_keys = std::max(n_keys, static_cast<std::size_t>(row.kv_end[i]) - start);
    }
    parts.push_back({start, first, last, n_keys, p});
  }
}

/// The parts of all segments, the longest segments first.
std::vector<Part> split_row(const PackedRow& row) {
  std::vector<std::size_t> segments;
  for (std::size_t s = 0; s + 1 < row.bounds.size(); ++s) {
    if (row.bounds[s + 1] > row.bounds[s]) segments.push_back(s);
  }
  const auto length = [&](std::size_t s) { return row.bounds[s + 1] - row.bounds[s]; };
  std::stable_sort(segments.begin(), segments.end(),
                   [&](std::size_t a, std::size_t b) { return length(a) > length(b); });
  std::vector<Part> parts;
  for (const auto s : segments) {
    split_segment(row, static_cast<std::size_t>(row.bounds[s]), static_cast<std::size_t>(length(s)),
                  parts);
  }
  return parts;
}

/// Row t of a tiled matrix of n_rows becomes x.
void put_row(std::span<const float> x, std::size_t n_rows, std::size_t t, float* matrix) {
  for (std::size_t c = 0; c < x.size(); c += kTile) {
    float* place = matrix + tiled(n_rows, t, c);
    if (x.size() - c >= kTile) {
      std::copy_n(x.data() + c, kTile, place);  // a length known beforehand needs no call
    } else {
      std::copy_n(x.data() + c, x.size() - c, place);
    }
  }
}

/// Column t of a tiled matrix becomes x.
void put_column(std::span<const float> x, std::size_t t, float* matrix) {
  float* column = matrix + tiled(x.size(), 0, t);
  for (std::size_t d = 0; d < x.size(); ++d) column[d * kTile] = x[d];
}

/// Keys and values of one task, copied (tiled) so that both directions of every product run along
/// memory. Kept from task to task: columns past d_head hold anything and are never read back.
struct Workspace {
  std::size_t padded = 0;                         // keys that the part sees, to whole tiles
  std::size_t width = 0;                          // d_head, to whole tiles
  std::vector<float> key_columns, value_columns;  // (d_head, padded)
  std::vector<float> keys, values;                // (padded, width)
  std::vector<float> d_keys, d_values;
  std::vector<std::int32_t> times;            // (padded,)
  std::vector<float> elapsed;                 // (kRows, padded)
  std::vector<float> scores, d_weights;       // (kRows, padded)
  std::vector<float> queries, d_out, result;  // (kRows, width)

  void prepare(const PackedRow& row, const PackedInputs& inputs, const Part& part,
               std::size_t kv_head, bool backward) {
    padded = tiles(part.n_keys);
    width = tiles(row.d_head);
    key_columns.resize(row.d_head * padded);
    values.resize(padded * width);
    for (auto* rows : {&elapsed, &scores, &d_weights}) rows->resize(kRows * padded);
    for (auto* rows : {&queries, &d_out, &result}) rows->resize(kRows * width);
    times.assign(padded, row.time_min[part.start + part.n_keys - 1]);
    std::copy_n(row.time_min.data() + part.start, part.n_keys, times.data());
    if (backward) {
      value_columns.resize(row.d_head * padded);
      keys.resize(padded * width);
      d_keys.assign(padded * width, 0.0F);
      d_values.assign(padded * width, 0.0F);
    }
    // past the keys: their weights are 0, but 0·NaN is not
    const std::vector<float> zeros(row.d_head);
    for (std::size_t t = 0; t < padded; ++t) {
      const auto source = ((part.start + t) * row.n_kv_heads + kv_head) * row.d_head;
      const bool inside = t < part.n_keys;
      const auto k = inside ? inputs.k.subspan(source, row.d_head) : std::span<const float>(zeros);
      const auto v = inside ? inputs.v.subspan(source, row.d_head) : std::span<const float>(zeros);
      put_column(k, t, key_columns.data());
      put_row(v, padded, t, values.data());
      if (!backward) continue;
      put_column(v, t, value_columns.data());
      put_row(k, padded, t, keys.data());
    }
  }
};

/// Eight queries of a task: where they are and how many keys each sees.
struct Block {
  std::size_t start;           // of the segment
  std::size_t first;           // of the block, inside the segment
  std::size_t n_rows;          // 1..8
  std::size_t visible[kRows];  // keys a row sees; 0 for rows past the part
  std::size_t n_keys;          // the most, to whole tiles
};

Block make_block(const PackedRow& row, const Part& part, std::size_t first) {
  Block block{part.start, first, std::min(kRows, part.last - first), {}, 0};
  for (std::size_t r = 0; r < block.n_rows; ++r) {
    const auto i = part.start + first + r;
    block.visible[r] =
        row.kv_end.empty() ? first + r + 1 : static_cast<std::size_t>(row.kv_end[i]) - part.start;
    block.n_keys = std::max(block.n_keys, block.visible[r]);
  }
  block.n_keys = tiles(block.n_keys);
  return block;
}

/// Copies one head of eight rows of (T, heads, d_head); rows past the part stay zero.
void gather_rows(const PackedRow& row, std::span<const float> source, const Block& block,
                 std::size_t head, std::size_t width, std::vector<float>& target) {
  std::fill(target.begin(), target.end(), 0.0F);
  for (std::size_t r = 0; r < block.n_rows; ++r) {
    const auto i = block.start + block.first + r;
    std::copy_n(source.data() + (i * row.n_heads + head) * row.d_head, row.d_head,
                target.data() + r * width);
  }
}

void scatter_rows(const PackedRow& row, const Block& block, std::size_t head, std::size_t width,
                  const std::vector<float>& source, std::span<float> target) {
  for (std::size_t r = 0; r < block.n_rows; ++r) {
    const auto i = block.start + block.first + r;
    std::copy_n(source.data() + r * width, row.d_head,
                target.data() + (i * row.n_heads + head) * row.d_head);
  }
}

/// Scores of a block with bias, -infinity where a row must not look.
void make_scores(const PackedRow& row, const Block& block, std::size_t head, Workspace& w) {
  const float scale = 1.0F / std::sqrt(static_cast<float>(row.d_head));
  packed::rows_by_columns(w.queries.data(), w.width, w.key_columns.data(), row.d_head, row.d_head,
                          block.n_keys, scale, w.scores.data(), w.padded);
  for (std::size_t r = 0; r < kRows; ++r) {
    float* scores = w.scores.data() + r * w.padded;
    const float* elapsed = w.elapsed.data() + r * w.padded;
    if (r < block.n_rows && row.bias == TimeBias::linear) {
      packed::add_linear(elapsed, block.n_keys, row.a[head] / row.tau[head], scores);
    } else if (r < block.n_rows && row.bias == TimeBias::log) {
      packed::add_log(elapsed, block.n_keys, row.a[head], 1.0F / row.tau[head], scores);
    }
    std::fill(scores + block.visible[r], scores + block.n_keys, kNothing);
  }
}

void make_elapsed(const PackedRow& row, const Block& block, Workspace& w) {
  if (row.bias == TimeBias::none) return;
  for (std::size_t r = 0; r < block.n_rows; ++r) {
    packed::minutes_between(w.times.data(), block.n_keys, w.times[block.first + r],
                            w.elapsed.data() + r * w.padded);
  }
}

void forward_task(const PackedRow& row, const PackedInputs& inputs, const Part& part,
                  std::size_t kv_head, Workspace& w, std::span<float> out,
                  std::span<float> log_sum) {
  w.prepare(row, inputs, part, kv_head, false);
  const auto group = row.n_heads / row.n_kv_heads;
  for (auto first = part.first; first < part.last; first += kRows) {
    const Block block = make_block(row, part, first);
    make_elapsed(row, block, w);
    for (std::size_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
      gather_rows(row, inputs.q, block, head, w.width, w.queries);
      make_scores(row, block, head, w);
      float inverse[kRows] = {};
      for (std::size_t r = 0; r < kRows; ++r) {
        float* scores = w.scores.data() + r * w.padded;
        if (r >= block.n_rows) {
          std::fill_n(scores, block.n_keys, 0.0F);
          continue;
        }
        const auto i = block.start + block.first + r;
        log_sum[i * row.n_heads + head] = packed::softmax_row(scores, block.n_keys, &inverse[r]);
      }
      packed::rows_by_columns(w.scores.data(), w.padded, w.values.data(), w.padded, block.n_keys,
                              w.width, 1.0F, w.result.data(), w.width);
      for (std::size_t r = 0; r < block.n_rows; ++r) {
        for (std::size_t d = 0; d < row.d_head; ++d) w.result[r * w.width + d] *= inverse[r];
      }
      scatter_rows(row, block, head, w.width, w.result, out);
    }
  }
}

/// What a backward task adds to the bias of each head of its group: Σ dS·f(x) and Σ dS·x·f'(x).
struct Moments {
  double value = 0.0;
  double slope = 0.0;
};

void add_moments(const PackedRow& row, const Block& block, std::size_t head, const Workspace& w,
                 Moments& moments) {
  for (std::size_t r = 0; r < block.n_rows; ++r) {
    const float* d_scores = w.d_weights.data() + r * w.padded;
    const float* elapsed = w.elapsed.data() + r * w.padded;
    if (row.bias == TimeBias::linear) {
      const double x =
          packed::dot(d_scores, elapsed, block.n_keys) / static_cast<double>(row.tau[head]);
      moments.value += x;
      moments.slope += x;
    } else if (row.bias == TimeBias::log) {
      packed::log_moments(d_scores, elapsed, block.n_keys, 1.0F / row.tau[head], &moments.value,
                          &moments.slope);
    }
  }
}

void backward_task(const PackedRow& row, const PackedInputs& inputs, std::span<const float> d_out,
                   std::span<const float> out, std::span<const float> log_sum, const Part& part,
                   std::size_t kv_head, Workspace& w, const PackedGradients& gradients,
                   std::span<Moments> moments) {
  w.prepare(row, inputs, part, kv_head, true);
  const auto group = row.n_heads / row.n_kv_heads;
  const float scale = 1.0F / std::sqrt(static_cast<float>(row.d_head));
  for (auto first = part.first; first < part.last; first += kRows) {
    const Block block = make_block(row, part, first);
    make_elapsed(row, block, w);
    for (std::size_t g = 0; g < group; ++g) {
      const auto head = kv_head * group + g;
      gather_rows(row, inputs.q, block, head, w.width, w.queries);
      gather_rows(row, d_out, block, head, w.width, w.d_out);
      make_scores(row, block, head, w);
      packed::rows_by_columns(w.d_out.data(), w.width, w.value_columns.data(), row.d_head,
                              row.d_head, block.n_keys, 1.0F, w.d_weights.data(), w.padded);
      for (std::size_t r = 0; r < kRows; ++r) {
        float log_total = 0.0F, delta = 0.0F;
        if (r < block.n_rows) {
          const auto i = (block.start + block.first + r) * row.n_heads + head;
          log_total = log_sum[i];
          delta = static_cast<float>(
              packed::dot(d_out.data() + i * row.d_head, out.data() + i * row.d_head, row.d_head));
        }
        packed::softmax_gradient(w.scores.data() + r * w.padded, w.d_weights.data() + r * w.padded,
                                 block.n_keys, log_total, delta);
      }
      add_moments(row, block, head, w, moments[g]);
      packed::add_outer(w.scores.data(), w.padded, w.d_out.data(), w.width, block.n_keys,
                        w.d_values.data(), w.padded);
      for (float& x : w.queries) x *= scale;
      packed::add_outer(w.d_weights.data(), w.padded, w.queries.data(), w.width, block.n_keys,
                        w.d_keys.data(), w.padded);
      packed::rows_by_columns(w.d_weights.data(), w.padded, w.keys.data(), w.padded, block.n_keys,
                              w.width, scale, w.result.data(), w.width);
      scatter_rows(row, block, head, w.width, w.result, gradients.q);
    }
  }
}

/// Adds what a task holds for the keys and values of its segment.
void add_to_keys(const PackedRow& row, const Part& part, std::size_t kv_head, const Workspace& w,
                 const PackedGradients& gradients) {
  for (std::size_t t = 0; t < part.n_keys; ++t) {
    const auto target = ((part.start + t) * row.n_kv_heads + kv_head) * row.d_head;
    for (std::size_t c = 0; c < row.d_head; c += kTile) {
      const auto source = tiled(w.padded, t, c);
      for (std::size_t d = 0; d < std::min(kTile, row.d_head - c); ++d) {
        gradients.k[target + c + d] += w.d_keys[source + d];
        gradients.v[target + c + d] += w.d_values[source + d];
      }
    }
  }
}

/// Which tasks have added what they hold.
struct Finished {
  std::vector<bool> tasks;
  std::mutex mutex;
  std::condition_variable changed;
};

/// A task's turn to add to its keys: when the part before it has, with the same key head. Tasks are
/// taken in order, so that one is under way. The turn passes on however its task ends.
class Turn {
 public:
  Turn(Finished& finished, std::size_t task, std::size_t before)
      : finished_(finished), task_(task), before_(before) {}
  Turn(const Turn&) = delete;
  Turn& operator=(const Turn&) = delete;
  ~Turn() {
    wait();
    const std::scoped_lock lock(finished_.mutex);
    finished_.tasks[task_] = true;
    finished_.changed.notify_all();
  }

  void wait() const {
    std::unique_lock lock(finished_.mutex);
    finished_.changed.wait(lock, [&] { return before_ == task_ || finished_.tasks[before_]; });
  }

 private:
  Finished& finished_;
  std::size_t task_;
  std::size_t before_;  // the task itself where it is the first part
};

void check(const PackedRow& row, const PackedInputs& inputs) {
  const auto size = row.n_tokens * row.d_head;
  if (row.n_kv_heads == 0 || row.n_heads % row.n_kv_heads != 0 || row.d_head == 0 ||
      row.time_min.size() != row.n_tokens || inputs.q.size() != size * row.n_heads ||
      inputs.k.size() != size * row.n_kv_heads || inputs.v.size() != inputs.k.size() ||
      (!row.kv_end.empty() && row.kv_end.size() != row.n_tokens) ||
      (row.bias != TimeBias::none &&
       (row.a.size() != row.n_heads || row.tau.size() != row.n_heads))) {
    throw std::invalid_argument("attention: the shapes of the inputs do not fit each other");
  }
  for (std::size_t s = 0; s + 1 < row.bounds.size(); ++s) {
    if (row.bounds[s] < 0 || row.bounds[s + 1] < row.bounds[s] ||
        static_cast<std::size_t>(row.bounds[s + 1]) > row.n_tokens) {
      throw std::invalid_argument("attention: cu_seqlens must ascend within 0..T");
    }
    for (auto i = row.bounds[s]; !row.kv_end.empty() && i < row.bounds[s + 1]; ++i) {
      const auto last = row.kv_end[static_cast<std::size_t>(i)];
      if (last <= i || last > row.bounds[s + 1]) {
        throw std::invalid_argument("attention: kv_end must lie past its token, in its segment");
      }
    }
  }
}

/// Calls fn(part, kv_head, task, workspace) for each part and key head, in about that order.
template <typename Fn>
void for_each_task(const std::vector<Part>& parts, std::size_t n_kv_heads, int n_threads,
                   const Fn& fn) {
  const auto n_tasks = parts.size() * n_kv_heads;
  std::atomic<std::size_t> next{0};
  const auto n_workers = static_cast<std::size_t>(std::max(1, n_threads));
  parallel_for(std::min(n_workers, std::max<std::size_t>(n_tasks, 1)), n_threads,
               [&](std::size_t begin, std::size_t end, std::size_t) {
                 Workspace workspace;
                 for (auto worker = begin; worker < end; ++worker) {
                   for (auto task = next++; task < n_tasks; task = next++) {
                     fn(parts[task / n_kv_heads], task % n_kv_heads, task, workspace);
                   }
                 }
               });
}

}  // namespace

void packed_attention(const PackedRow& row, const PackedInputs& inputs, std::span<float> out,
                      std::span<float> log_sum, int n_threads) {
  check(row, inputs);
  if (out.size() != inputs.q.size() || log_sum.size() != row.n_tokens * row.n_heads) {
    throw std::invalid_argument("attention: the outputs do not fit the queries");
  }
  for_each_task(split_row(row), row.n_kv_heads, n_threads,
                [&](const Part& part, std::size_t kv_head, std::size_t, Workspace& workspace) {
                  forward_task(row, inputs, part, kv_head, workspace, out, log_sum);
                });
}

void packed_attention_backward(const PackedRow& row, const PackedInputs& inputs,
                               std::span<const float> d_out, std::span<const float> out,
                               std::span<const float> log_sum, const PackedGradients& gradients,
                               int n_threads) {
  check(row, inputs);
  if (d_out.size() != inputs.q.size() || out.size() != inputs.q.size() ||
      log_sum.size() != row.n_tokens * row.n_heads || gradients.q.size() != inputs.q.size() ||
      gradients.k.size() != inputs.k.size() || gradients.v.size() != inputs.v.size() ||
      gradients.a.size() != row.a.size() || gradients.tau.size() != row.tau.size()) {
    throw std::invalid_argument("attention: the gradients do not fit the inputs");
  }
  const auto group = row.n_heads / row.n_kv_heads;
  const auto parts = split_row(row);
  std::vector<Moments> moments(parts.size() * row.n_heads);
  Finished finished;
  finished.tasks.resize(parts.size() * row.n_kv_heads);
  for_each_task(parts, row.n_kv_heads, n_threads,
                [&](const Part& part, std::size_t kv_head, std::size_t task, Workspace& w) {
                  const auto before = part.index == 0 ? task : task - row.n_kv_heads;
                  const Turn turn(finished, task, before);
                  backward_task(row, inputs, d_out, out, log_sum, part, kv_head, w, gradients,
                                std::span(moments).subspan(task * group, group));
                  turn.wait();
                  add_to_keys(row, part, kv_head, w, gradients);
                });
  if (row.bias == TimeBias::none) return;
  for (std::size_t i = 0; i < moments.size(); ++i) {
    const auto head = i % row.n_heads;
    gradients.a[head] -= moments[i].value;
    gradients.tau[head] += moments[i].slope * static_cast<double>(row.a[head] / row.tau[head]);
  }
}

}  // namespace chronoward
