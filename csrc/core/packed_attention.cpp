#include "core/packed_attention.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <condition_variable>
#include <limits>
#include <mutex>
#include <stdexcept>
#include <vector>

#include "core/denormals.hpp"
#include "core/packed_kernels.hpp"
#include "core/packed_parts.hpp"
#include "core/parallel.hpp"

// A task is one part of a segment's queries and one key head. It owns its queries' rows
// of every output. What it adds to keys and values it keeps until the parts before it have added
// theirs, and the sums of the bias parameters are added up task by task at the end: whatever the
// threads, each number is summed in one order.
namespace chronoward {
namespace {

using packed::kLanes;
using packed::kQueries;
using packed::kSlots;

constexpr std::size_t whole_registers(std::size_t n) { return (n + 15) / 16 * 16; }

/// Sixteen queries of one head, from `first` on inside the segment.
struct Slot {
  std::size_t first;
  std::size_t head;
  std::size_t n_rows;  // of them in the part
};

/// Two slots (or one) that share keys and values, and what their lanes look at.
struct Block {
  Slot slots[kSlots];
  std::size_t n_slots;
  std::size_t n_lanes;
  std::size_t n_keys;  // the most that a lane sees
  std::size_t n_sure;  // the fewest
  std::size_t n_far;   // the first ones, whose weights are zero
  std::int32_t now[kLanes], visible[kLanes];
  float strength[kLanes] = {}, inverse_tau[kLanes] = {};

  packed::Lanes lanes(const PackedRow& row, std::size_t start, std::size_t first_key,
                      std::size_t n) const {
    const auto sure = n_sure > first_key ? std::min(n_sure - first_key, n) : 0;
    return {n_lanes, first_key, n,        sure,     row.time_min.data() + start + first_key,
            now,     visible,   row.bias, strength, inverse_tau};
  }
};

/// Rows of keys or of values of a segment.
struct Rows {
  const float* data = nullptr;
  std::size_t stride = 0;
  std::vector<Bf16> packed{};  // as left sides, where products are in bf16

  const float* at(std::size_t t) const { return data + t * stride; }
};

/// Rows of a block's lanes, as rows and as columns, and in bf16 as the right sides of products.
struct LaneRows {
  std::vector<float> rows, columns;               // (kLanes, width), (d_head, lanes)
  std::vector<Bf16> packed_rows, packed_columns;  // where products are in bf16; rows: backward
};

/// What one task works with, kept from task to task.
struct Workspace {
  std::size_t width = 0;  // d_head, to whole registers
  Rows keys, values;
  float key_norm = 0.0F;                    // the largest
  std::vector<float> key_copy, value_copy;  // (n_keys, width), where d_head is odd
  std::vector<float> d_keys, d_values;      // (n_keys, width)
  std::vector<float> scores, d_weights;     // (keys, kLanes)
  std::vector<float> result;                // (kLanes, width)
  LaneRows queries, d_outs;

  /// Keys or values where they are, or a copy whose rows fill whole registers.
  void take_rows(const PackedRow& row, std::span<const float> source, const Part& part,
                 std::size_t kv_head, bool packs, std::vector<float>& copy, Rows& rows) const {
    rows.stride = row.n_kv_heads * row.d_head;
    rows.data = source.data() + part.start * rows.stride + kv_head * row.d_head;
    if (packs) packed::pack_a(rows.data, rows.stride, part.n_keys, row.d_head, rows.packed);
    if (width == row.d_head) return;
    copy.assign(part.n_keys * width, 0.0F);
    for (std::size_t t = 0; t < part.n_keys; ++t) {
      std::copy_n(rows.at(t), row.d_head, copy.data() + t * width);
    }
    rows.data = copy.data();
    rows.stride = width;
  }

  void prepare(const PackedRow& row, const PackedInputs& inputs, const Part& part,
               std::size_t kv_head, bool backward) {
    width = whole_registers(row.d_head);
    take_rows(row, inputs.k, part, kv_head, row.in_bf16, key_copy, keys);
    take_rows(row, inputs.v, part, kv_head, row.in_bf16 && backward, value_copy, values);
    float largest = 0.0F;
    for (std::size_t t = 0; t < part.n_keys; ++t) {
      const float square = packed::dot(keys.at(t), keys.at(t), row.d_head);
      largest = square > largest || square != square ? square : largest;
    }
    key_norm = std::sqrt(largest);
    const auto n_keys = part.n_keys + 16;  // products write whole sixteens
    const auto n_scores = (backward ? packed::kTileKeys : n_keys) * kLanes;
    scores.resize(std::max(scores.size(), n_scores));
    for (auto* rows : {&queries.rows, &queries.columns, &d_outs.rows, &d_outs.columns, &result}) {
      rows->resize(kLanes * width);
    }
    if (!backward) return;
    d_weights.resize(packed::kTileKeys * kLanes);
    d_keys.assign(n_keys * width, 0.0F);
    d_values.assign(n_keys * width, 0.0F);
  }
};

/// The slots of a part and key head go through its queries, sixteen at a time, and there through
/// the heads that share the key head.
Block make_block(const PackedRow& row, const Part& part, std::size_t kv_head, std::size_t index) {
  const auto group = row.n_heads / row.n_kv_heads;
  const auto n_slots = (part.last - part.first + kQueries - 1) / kQueries * group;
  Block block{};
  block.n_slots = std::min(kSlots, n_slots - index);
  block.n_lanes = block.n_slots * kQueries;
  block.n_sure = part.n_keys;
  for (std::size_t s = 0; s < block.n_slots; ++s) {
    const auto first = part.first + (index + s) / group * kQueries;
    const auto head = kv_head * group + (index + s) % group;
    block.slots[s] = {first, head, std::min(kQueries, part.last - first)};
    for (std::size_t r = 0; r < kQueries; ++r) {
      // lanes past the part do as its last query does; nobody reads them
      const auto i = part.start + first + std::min(r, block.slots[s].n_rows - 1);
      const auto end = row.kv_end.empty() ? i + 1 : static_cast<std::size_t>(row.kv_end[i]);
      const auto visible = end - part.start, lane = s * kQueries + r;
      block.now[lane] = row.time_min[i];
      block.visible[lane] = static_cast<std::int32_t>(visible);
      block.n_keys = std::max(block.n_keys, visible);
      block.n_sure = std::min(block.n_sure, visible);
      if (row.bias == TimeBias::none) continue;
      block.inverse_tau[lane] = 1.0F / row.tau[head];
      block.strength[lane] =
          row.bias == TimeBias::linear ? row.a[head] / row.tau[head] : row.a[head];
    }
  }
  return block;
}

/// Calls fn(lane, offset) for each query of a block, with its place in a (T, heads) array.
template <typename Fn>
void for_queries(const PackedRow& row, const Part& part, const Block& block, const Fn& fn) {
  for (std::size_t s = 0; s < block.n_slots; ++s) {
    const Slot& slot = block.slots[s];
    for (std::size_t r = 0; r < slot.n_rows; ++r) {
      fn(s * kQueries + r, (part.start + slot.first + r) * row.n_heads + slot.head);
    }
  }
}

/// Copies a block's rows of (T, heads, d_head) times `scale`; lanes past the part and features past
/// d_head are zero.
void gather(const PackedRow& row, const Part& part, const Block& block,
            std::span<const float> source, float scale, std::size_t width, LaneRows& to) {
  std::fill(to.rows.begin(), to.rows.end(), 0.0F);
  for_queries(row, part, block, [&](std::size_t lane, std::size_t place) {
    const float* from = source.data() + place * row.d_head;
    for (std::size_t d = 0; d < row.d_head; ++d) to.rows[lane * width + d] = scale * from[d];
  });
  packed::transpose(to.rows.data(), block.n_lanes, width, to.columns.data());
  if (!row.in_bf16) return;
  packed::pack_b(to.columns.data(), block.n_lanes, row.d_head, block.n_lanes, to.packed_columns);
}

void multiply(const PackedRow& row, const packed::Product& product) {
  if (row.in_bf16) {
    packed::multiply_bf16(product);
  } else {
    packed::multiply(product);
  }
}

/// scores (n, lanes) = rows of keys (or values) from `first_key` on times the lanes' columns.
void key_products(const PackedRow& row, const Block& block, const Rows& rows, std::size_t first_key,
                  std::size_t n, const LaneRows& lanes, float* scores) {
  packed::Product product{
      rows.at(first_key), rows.stride,   false,  lanes.columns.data(), block.n_lanes, n,
      row.d_head,         block.n_lanes, scores, block.n_lanes,        false};
  if (row.in_bf16) {
    product.packed_a = rows.packed.data() + first_key * packed::packed_depth(row.d_head);
    product.packed_b = lanes.packed_columns.data();
  }
  multiply(row, product);
}

/// sums (lanes, width) += weights (n, lanes)ᵀ times rows of values (or keys).
void add_weighted(const PackedRow& row, const Block& block, const float* weights, std::size_t n,
                  const Rows& rows, std::size_t first_key, std::size_t width,
                  std::vector<float>& sums) {
  multiply(row, {weights, block.n_lanes, true, rows.at(first_key), rows.stride, block.n_lanes, n,
                 width, sums.data(), width, true});
}

/// sums (n, width) += weights (n, lanes) times the lanes' rows.
void add_to_rows(const PackedRow& row, const Block& block, const float* weights, std::size_t n,
                 const LaneRows& lanes, std::size_t width, float* sums) {
  packed::Product product{
      weights, block.n_lanes, false, lanes.rows.data(), width, n, block.n_lanes, width,
      sums,    width,         true};
  if (row.in_bf16) product.packed_b = lanes.packed_rows.data();
  multiply(row, product);
}

/// Calls fn(block) for all slots of a part and key head.
template <typename Fn>
void for_blocks(const PackedRow& row, const Part& part, std::size_t kv_head, const Fn& fn) {
  const auto n_slots =
      (part.last - part.first + kQueries - 1) / kQueries * (row.n_heads / row.n_kv_heads);
  for (std::size_t index = 0; index < n_slots; index += kSlots) {
    auto block = make_block(row, part, kv_head, index);
    fn(block);
  }
}

/// Leaves out the keys so far back that the linear bias alone makes all their weights zero. Scores
/// without bias are at most |q||k| apart from zero and a query sees itself, so a weight is at most
/// exp(2|q||k| - slope * minutes), and the exponential is exactly zero below -87.
void skip_far_keys(const PackedRow& row, const Part& part, const Workspace& w, Block& block) {
  if (row.bias != TimeBias::linear) return;
  constexpr float kZero = 87.0F, kRounding = 1.001F;
  const auto times = row.time_min.subspan(part.start, block.n_keys);
  std::size_t n_skipped = block.n_keys;
  for (std::size_t s = 0; s < block.n_slots; ++s) {
    float largest = 0.0F;  // of |q|², times the scale
    for (std::size_t lane = s * kQueries; lane < (s + 1) * kQueries; ++lane) {
      const float* query = w.queries.rows.data() + lane * w.width;
      largest = std::max(largest, packed::dot(query, query, w.width));
    }
    const float reach = (kZero + 2.0F * std::sqrt(largest) * w.key_norm) * kRounding;
    const double minutes =
        static_cast<double>(reach) / static_cast<double>(block.strength[s * kQueries]);
    const double before = static_cast<double>(block.now[s * kQueries]) - minutes;
    const auto first =
        std::lower_bound(times.begin(), times.end(), before,
                         [](std::int32_t t, double x) { return static_cast<double>(t) < x; });
    n_skipped = std::min(n_skipped, static_cast<std::size_t>(first - times.begin()));
  }
  block.n_far = n_skipped;
}

/// Calls fn(first_key, n) for the keys of a block, some at a time.
template <typename Fn>
void for_tiles(const Block& block, const Fn& fn) {
  for (std::size_t first = block.n_far; first < block.n_keys; first += packed::kTileKeys) {
    fn(first, std::min(packed::kTileKeys, block.n_keys - first));
  }
}

float score_scale(const PackedRow& row) { return 1.0F / std::sqrt(static_cast<float>(row.d_head)); }

void forward_task(const PackedRow& row, const PackedInputs& inputs, const Part& part,
                  std::size_t kv_head, Workspace& w, std::span<float> out,
                  std::span<float> log_sum) {
  w.prepare(row, inputs, part, kv_head, false);
  for_blocks(row, part, kv_head, [&](Block& block) {
    gather(row, part, block, inputs.q, score_scale(row), w.width, w.queries);
    skip_far_keys(row, part, w, block);
    float top[kLanes], sum[kLanes] = {};
    std::fill_n(top, kLanes, packed::kNothing);
    for_tiles(block, [&](std::size_t first, std::size_t n) {
      float* scores = w.scores.data() + first * block.n_lanes;
      key_products(row, block, w.keys, first, n, w.queries, scores);
      packed::bias_scores(block.lanes(row, part.start, first, n), scores, top);
    });
    std::fill(w.result.begin(), w.result.end(), 0.0F);
    for_tiles(block, [&](std::size_t first, std::size_t n) {
      float* scores = w.scores.data() + first * block.n_lanes;
      packed::exponentials(block.lanes(row, part.start, first, n), top, scores, sum);
      add_weighted(row, block, scores, n, w.values, first, w.width, w.result);
    });
    for_queries(row, part, block, [&](std::size_t lane, std::size_t place) {
      const float inverse = 1.0F / sum[lane];
      const float* from = w.result.data() + lane * w.width;
      float* to = out.data() + place * row.d_head;
      for (std::size_t d = 0; d < row.d_head; ++d) to[d] = from[d] * inverse;
      log_sum[place] = top[lane] + std::log(sum[lane]);
    });
  });
}

/// What a backward task adds to the bias of each head of its group, see packed::Moments.
struct HeadMoments {
  double value = 0.0;
  double slope = 0.0;
};

void add_moments(const Block& block, const packed::Moments& lanes, std::span<HeadMoments> heads) {
  for (std::size_t lane = 0; lane < block.n_lanes; ++lane) {
    auto& sums = heads[block.slots[lane / kQueries].head % heads.size()];
    sums.value += static_cast<double>(lanes.value[lane]);
    sums.slope += static_cast<double>(lanes.slope[lane]);
  }
}

/// What the forward pass made and the gradient of its output.
struct Outputs {
  std::span<const float> d_out, out, log_sum;
};

void backward_task(const PackedRow& row, const PackedInputs& inputs, const Outputs& outputs,
                   const Part& part, std::size_t kv_head, Workspace& w, std::span<float> d_q,
                   std::span<HeadMoments> moments) {
  w.prepare(row, inputs, part, kv_head, true);
  const float scale = score_scale(row);
  for_blocks(row, part, kv_head, [&](Block& block) {
    gather(row, part, block, inputs.q, scale, w.width, w.queries);
    skip_far_keys(row, part, w, block);
    gather(row, part, block, outputs.d_out, 1.0F, w.width, w.d_outs);
    for (LaneRows* lanes : {&w.queries, &w.d_outs}) {
      if (!row.in_bf16) break;
      packed::pack_b(lanes->rows.data(), w.width, block.n_lanes, w.width, lanes->packed_rows);
    }
    float log_sum[kLanes], delta[kLanes] = {};
    std::fill_n(log_sum, kLanes, std::numeric_limits<float>::max());  // weights past the part: 0
    for_queries(row, part, block, [&](std::size_t lane, std::size_t place) {
      log_sum[lane] = outputs.log_sum[place];
      delta[lane] = packed::dot(w.d_outs.rows.data() + lane * w.width,
                                outputs.out.data() + place * row.d_head, row.d_head);
    });
    std::fill(w.result.begin(), w.result.end(), 0.0F);
    packed::Moments sums{};
    for_tiles(block, [&](std::size_t first, std::size_t n) {
      key_products(row, block, w.keys, first, n, w.queries, w.scores.data());
      key_products(row, block, w.values, first, n, w.d_outs, w.d_weights.data());
      packed::score_gradients(block.lanes(row, part.start, first, n), log_sum, delta,
                              w.scores.data(), w.d_weights.data(), sums);
      const auto at = first * w.width;
      add_to_rows(row, block, w.scores.data(), n, w.d_outs, w.width, w.d_values.data() + at);
      add_to_rows(row, block, w.d_weights.data(), n, w.queries, w.width, w.d_keys.data() + at);
      add_weighted(row, block, w.d_weights.data(), n, w.keys, first, w.width, w.result);
    });
    add_moments(block, sums, moments);
    for_queries(row, part, block, [&](std::size_t lane, std::size_t place) {
      const float* from = w.result.data() + lane * w.width;
      for (std::size_t d = 0; d < row.d_head; ++d) {
        d_q[place * row.d_head + d] = scale * from[d];
      }
    });
  });
}

/// Adds what a task holds for the keys and values of its segment.
void add_to_keys(const PackedRow& row, const Part& part, std::size_t kv_head, const Workspace& w,
                 const PackedGradients& gradients) {
  for (std::size_t t = 0; t < part.n_keys; ++t) {
    const auto target = ((part.start + t) * row.n_kv_heads + kv_head) * row.d_head;
    for (std::size_t d = 0; d < row.d_head; ++d) {
      gradients.k[target + d] += w.d_keys[t * w.width + d];
      gradients.v[target + d] += w.d_values[t * w.width + d];
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
                 const WithoutDenormals guard;
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
  std::vector<HeadMoments> moments(parts.size() * row.n_heads);
  Finished finished;
  finished.tasks.resize(parts.size() * row.n_kv_heads);
  for_each_task(parts, row.n_kv_heads, n_threads,
                [&](const Part& part, std::size_t kv_head, std::size_t task, Workspace& w) {
                  const auto before = part.index == 0 ? task : task - row.n_kv_heads;
                  const Turn turn(finished, task, before);
                  backward_task(row, inputs, {d_out, out, log_sum}, part, kv_head, w, gradients.q,
                                std::span(moments).subspan(task * group, group));
                  turn.wait();
                  add_to_keys(row, part, kv_head, w, gradients);
                });
  if (row.bias == TimeBias::none) return;
  for (std::size_t i = 0; i < moments.size(); ++i) {
    const auto head = i % row.n_heads;
    const auto a = static_cast<double>(row.a[head]), tau = static_cast<double>(row.tau[head]);
    const bool is_linear = row.bias == TimeBias::linear;
    const double value = is_linear ? moments[i].value / tau : moments[i].value;
    gradients.a[head] -= value;
    gradients.tau[head] += (is_linear ? value : moments[i].slope) * a / tau;
  }
}

}  // namespace chronoward
