#include "core/packed_attention.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <vector>

#include "core/fastmath.hpp"
#include "core/parallel.hpp"

// A task is one segment and one key head: it owns its rows of every output, so threads never add to
// one number, and the sums of the bias parameters are added up task by task at the end. Inside a
// task four queries go together over tiles of sixteen keys or features.
namespace chronoward {
namespace {

constexpr std::size_t kLanes = 8;
constexpr std::size_t kTile = 16;
constexpr std::size_t kRows = 4;
constexpr float kNothing = -std::numeric_limits<float>::infinity();
using Lanes = float __attribute__((vector_size(32)));

Lanes load(const float* p) {
  Lanes x;
  std::memcpy(&x, p, sizeof(x));
  return x;
}

void store(float* p, Lanes x) { std::memcpy(p, &x, sizeof(x)); }

std::size_t tiles(std::size_t n) { return (n + kTile - 1) / kTile * kTile; }

/// out[r][t] = scale * Σ_d rows[r][d] * columns[d][t] for four rows and n (a multiple of 16) t.
CHRONOWARD_CLONES void four_by_columns(const float* rows, std::size_t row_stride,
                                       const float* columns, std::size_t column_stride,
                                       std::size_t depth, std::size_t n, float scale, float* out,
                                       std::size_t out_stride) {
  for (std::size_t t = 0; t < n; t += kTile) {
    Lanes low[kRows]{}, high[kRows]{};
    const float* column = columns + t;
    for (std::size_t d = 0; d < depth; ++d, column += column_stride) {
      const Lanes a = load(column);
      const Lanes b = load(column + kLanes);
      for (std::size_t r = 0; r < kRows; ++r) {
        const float x = rows[r * row_stride + d];
        low[r] += x * a;
        high[r] += x * b;
      }
    }
    for (std::size_t r = 0; r < kRows; ++r) {
      store(out + r * out_stride + t, low[r] * scale);
      store(out + r * out_stride + t + kLanes, high[r] * scale);
    }
  }
}

/// target[t][c] += Σ_r weights[r][t] * rows[r][c] for four rows, n targets, `width` features.
CHRONOWARD_CLONES void add_outer(const float* weights, std::size_t weight_stride, const float* rows,
                                 std::size_t width, std::size_t n, float* target) {
  for (std::size_t c = 0; c < width; c += kTile) {
    Lanes low[kRows], high[kRows];
    for (std::size_t r = 0; r < kRows; ++r) {
      low[r] = load(rows + r * width + c);
      high[r] = load(rows + r * width + c + kLanes);
    }
    for (std::size_t t = 0; t < n; ++t) {
      float* place = target + t * width + c;
      Lanes a = load(place);
      Lanes b = load(place + kLanes);
      for (std::size_t r = 0; r < kRows; ++r) {
        const float w = weights[r * weight_stride + t];
        a += w * low[r];
        b += w * high[r];
      }
      store(place, a);
      store(place + kLanes, b);
    }
  }
}

CHRONOWARD_CLONES void minutes_between(const std::int32_t* times, std::size_t n, std::int32_t now,
                                       float* elapsed) {
  for (std::size_t t = 0; t < n; ++t) {
    const std::int32_t gap = now - times[t];  // as integers: floats would lose minutes
    elapsed[t] = static_cast<float>(gap < 0 ? -gap : gap);
  }
}

CHRONOWARD_CLONES void add_linear(const float* elapsed, std::size_t n, float slope, float* scores) {
  for (std::size_t t = 0; t < n; ++t) scores[t] -= slope * elapsed[t];
}

CHRONOWARD_CLONES void add_log(const float* elapsed, std::size_t n, float a, float inverse_tau,
                               float* scores) {
  for (std::size_t t = 0; t < n; ++t) scores[t] -= a * fast_log(1.0F + elapsed[t] * inverse_tau);
}

/// scores -> exp(scores - max); n is a multiple of 8. Returns log Σ exp, and 1/Σ in `inverse`.
CHRONOWARD_CLONES float softmax_row(float* scores, std::size_t n, float* inverse) {
  float tops[kLanes];
  std::fill_n(tops, kLanes, kNothing);
  for (std::size_t t = 0; t < n; t += kLanes) {
    for (std::size_t i = 0; i < kLanes; ++i) {
      tops[i] = scores[t + i] > tops[i] ? scores[t + i] : tops[i];
    }
  }
  float top = tops[0];
  for (const float lane : tops) top = lane > top ? lane : top;
  float sums[kLanes] = {};
  for (std::size_t t = 0; t < n; t += kLanes) {
    for (std::size_t i = 0; i < kLanes; ++i) {
      scores[t + i] = fast_exp(scores[t + i] - top);
      sums[i] += scores[t + i];
    }
  }
  float sum = 0.0F;
  for (const float lane : sums) sum += lane;
  *inverse = 1.0F / sum;
  return top + std::log(sum);
}

/// weights = exp(scores - log_sum); d_scores = weights * (d_weights - delta), in place.
CHRONOWARD_CLONES void softmax_gradient(float* scores, float* d_weights, std::size_t n,
                                        float log_sum, float delta) {
  for (std::size_t t = 0; t < n; ++t) {
    // recomputed scores may pass the sum they once made by a rounding error
    const float exponent = scores[t] - log_sum;
    scores[t] = fast_exp(exponent < 0.0F ? exponent : 0.0F);
    d_weights[t] = scores[t] * (d_weights[t] - delta);
  }
}

CHRONOWARD_CLONES double dot(const float* x, const float* y, std::size_t n) {
  float sums[kLanes] = {};
  for (std::size_t t = 0; t < n; t += kLanes) {
    for (std::size_t i = 0; i < kLanes; ++i) sums[i] += x[t + i] * y[t + i];
  }
  double total = 0.0;
  for (const float lane : sums) total += static_cast<double>(lane);
  return total;
}

/// Σ d * log(1 + x) and Σ d * x / (1 + x) with x = elapsed / tau.
CHRONOWARD_CLONES void log_moments(const float* d, const float* elapsed, std::size_t n,
                                   float inverse_tau, double* first, double* second) {
  float ones[kLanes] = {}, twos[kLanes] = {};
  for (std::size_t t = 0; t < n; t += kLanes) {
    for (std::size_t i = 0; i < kLanes; ++i) {
      const float x = elapsed[t + i] * inverse_tau;
      ones[i] += d[t + i] * fast_log(1.0F + x);
      twos[i] += d[t + i] * (x / (1.0F + x));
    }
  }
  for (std::size_t i = 0; i < kLanes; ++i) {
    *first += static_cast<double>(ones[i]);
    *second += static_cast<double>(twos[i]);
  }
}

/// Keys and values of one task, copied so that both directions of every product run along memory.
struct Workspace {
  std::size_t length = 0;                         // of the segment
  std::size_t padded = 0;                         // of the segment, to whole tiles
  std::size_t width = 0;                          // d_head, to whole tiles
  std::vector<float> key_columns, value_columns;  // (d_head, padded)
  std::vector<float> keys, values;                // (padded, width)
  std::vector<float> d_keys, d_values;
  std::vector<std::int32_t> times;            // (padded,)
  std::vector<float> elapsed;                 // (4, padded)
  std::vector<float> scores, d_weights;       // (4, padded)
  std::vector<float> queries, d_out, result;  // (4, width)

  void prepare(const PackedRow& row, const PackedInputs& inputs, std::size_t start, std::size_t end,
               std::size_t kv_head, bool backward) {
    length = end - start;
    padded = tiles(length);
    width = tiles(row.d_head);
    key_columns.assign(row.d_head * padded, 0.0F);
    values.assign(padded * width, 0.0F);
    if (backward) {
      value_columns.assign(row.d_head * padded, 0.0F);
      keys.assign(padded * width, 0.0F);
      d_keys.assign(padded * width, 0.0F);
      d_values.assign(padded * width, 0.0F);
    }
    times.assign(padded, row.time_min[end - 1]);
    std::copy_n(row.time_min.data() + start, length, times.data());
    for (std::size_t t = 0; t < length; ++t) {
      const auto source = ((start + t) * row.n_kv_heads + kv_head) * row.d_head;
      const float* k = inputs.k.data() + source;
      const float* v = inputs.v.data() + source;
      std::copy_n(v, row.d_head, values.data() + t * width);
      for (std::size_t d = 0; d < row.d_head; ++d) key_columns[d * padded + t] = k[d];
      if (!backward) continue;
      std::copy_n(k, row.d_head, keys.data() + t * width);
      for (std::size_t d = 0; d < row.d_head; ++d) value_columns[d * padded + t] = v[d];
    }
    elapsed.assign(kRows * padded, 0.0F);
    scores.assign(kRows * padded, 0.0F);
    d_weights.assign(kRows * padded, 0.0F);
    queries.assign(kRows * width, 0.0F);
    d_out.assign(kRows * width, 0.0F);
    result.assign(kRows * width, 0.0F);
  }
};

/// Four queries of a task: where they are and how many keys each sees.
struct Block {
  std::size_t start;           // of the segment
  std::size_t first;           // of the block, inside the segment
  std::size_t n_rows;          // 1..4
  std::size_t visible[kRows];  // keys a row sees; 0 for rows past the segment
  std::size_t n_keys;          // the most, to whole tiles
};

Block make_block(const PackedRow& row, std::size_t start, std::size_t length, std::size_t first) {
  Block block{start, first, std::min(kRows, length - first), {}, 0};
  for (std::size_t r = 0; r < block.n_rows; ++r) {
    const auto i = start + first + r;
    block.visible[r] =
        row.kv_end.empty() ? first + r + 1 : static_cast<std::size_t>(row.kv_end[i]) - start;
    block.n_keys = std::max(block.n_keys, block.visible[r]);
  }
  block.n_keys = tiles(block.n_keys);
  return block;
}

/// Copies one head of four rows of (T, heads, d_head); rows past the segment stay zero.
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
  four_by_columns(w.queries.data(), w.width, w.key_columns.data(), w.padded, row.d_head,
                  block.n_keys, scale, w.scores.data(), w.padded);
  for (std::size_t r = 0; r < kRows; ++r) {
    float* scores = w.scores.data() + r * w.padded;
    const float* elapsed = w.elapsed.data() + r * w.padded;
    if (r < block.n_rows && row.bias == TimeBias::linear) {
      add_linear(elapsed, block.n_keys, row.a[head] / row.tau[head], scores);
    } else if (r < block.n_rows && row.bias == TimeBias::log) {
      add_log(elapsed, block.n_keys, row.a[head], 1.0F / row.tau[head], scores);
    }
    std::fill(scores + block.visible[r], scores + block.n_keys, kNothing);
  }
}

void make_elapsed(const PackedRow& row, const Block& block, Workspace& w) {
  if (row.bias == TimeBias::none) return;
  for (std::size_t r = 0; r < block.n_rows; ++r) {
    minutes_between(w.times.data(), block.n_keys, w.times[block.first + r],
                    w.elapsed.data() + r * w.padded);
  }
}

void forward_task(const PackedRow& row, const PackedInputs& inputs, std::size_t start,
                  std::size_t end, std::size_t kv_head, Workspace& w, std::span<float> out,
                  std::span<float> log_sum) {
  w.prepare(row, inputs, start, end, kv_head, false);
  const auto group = row.n_heads / row.n_kv_heads;
  for (std::size_t first = 0; first < w.length; first += kRows) {
    const Block block = make_block(row, start, w.length, first);
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
        log_sum[i * row.n_heads + head] = softmax_row(scores, block.n_keys, &inverse[r]);
      }
      four_by_columns(w.scores.data(), w.padded, w.values.data(), w.width, block.n_keys, w.width,
                      1.0F, w.result.data(), w.width);
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
      const double x = dot(d_scores, elapsed, block.n_keys) / static_cast<double>(row.tau[head]);
      moments.value += x;
      moments.slope += x;
    } else if (row.bias == TimeBias::log) {
      log_moments(d_scores, elapsed, block.n_keys, 1.0F / row.tau[head], &moments.value,
                  &moments.slope);
    }
  }
}

void backward_task(const PackedRow& row, const PackedInputs& inputs, std::span<const float> d_out,
                   std::span<const float> out, std::span<const float> log_sum, std::size_t start,
                   std::size_t end, std::size_t kv_head, Workspace& w,
                   const PackedGradients& gradients, std::span<Moments> moments) {
  w.prepare(row, inputs, start, end, kv_head, true);
  const auto group = row.n_heads / row.n_kv_heads;
  const float scale = 1.0F / std::sqrt(static_cast<float>(row.d_head));
  for (std::size_t first = 0; first < w.length; first += kRows) {
    const Block block = make_block(row, start, w.length, first);
    make_elapsed(row, block, w);
    for (std::size_t g = 0; g < group; ++g) {
      const auto head = kv_head * group + g;
      gather_rows(row, inputs.q, block, head, w.width, w.queries);
      gather_rows(row, d_out, block, head, w.width, w.d_out);
      make_scores(row, block, head, w);
      four_by_columns(w.d_out.data(), w.width, w.value_columns.data(), w.padded, row.d_head,
                      block.n_keys, 1.0F, w.d_weights.data(), w.padded);
      for (std::size_t r = 0; r < kRows; ++r) {
        float log_total = 0.0F, delta = 0.0F;
        if (r < block.n_rows) {
          const auto i = (block.start + block.first + r) * row.n_heads + head;
          log_total = log_sum[i];
          for (std::size_t d = 0; d < row.d_head; ++d) {
            delta += d_out[i * row.d_head + d] * out[i * row.d_head + d];
          }
        }
        softmax_gradient(w.scores.data() + r * w.padded, w.d_weights.data() + r * w.padded,
                         block.n_keys, log_total, delta);
      }
      add_moments(row, block, head, w, moments[g]);
      add_outer(w.scores.data(), w.padded, w.d_out.data(), w.width, block.n_keys,
                w.d_values.data());
      for (float& x : w.queries) x *= scale;
      add_outer(w.d_weights.data(), w.padded, w.queries.data(), w.width, block.n_keys,
                w.d_keys.data());
      four_by_columns(w.d_weights.data(), w.padded, w.keys.data(), w.width, block.n_keys, w.width,
                      scale, w.result.data(), w.width);
      scatter_rows(row, block, head, w.width, w.result, gradients.q);
    }
  }
  for (std::size_t t = 0; t < w.length; ++t) {
    const auto target = ((start + t) * row.n_kv_heads + kv_head) * row.d_head;
    std::copy_n(w.d_keys.data() + t * w.width, row.d_head, gradients.k.data() + target);
    std::copy_n(w.d_values.data() + t * w.width, row.d_head, gradients.v.data() + target);
  }
}

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

/// Calls fn(start, end, kv_head, task, workspace) for each task, the longest segments first.
template <typename Fn>
void for_each_task(const PackedRow& row, int n_threads, const Fn& fn) {
  std::vector<std::size_t> segments;
  for (std::size_t s = 0; s + 1 < row.bounds.size(); ++s) {
    if (row.bounds[s + 1] > row.bounds[s]) segments.push_back(s);
  }
  const auto length = [&](std::size_t s) { return row.bounds[s + 1] - row.bounds[s]; };
  std::stable_sort(segments.begin(), segments.end(),
                   [&](std::size_t a, std::size_t b) { return length(a) > length(b); });
  const auto n_tasks = segments.size() * row.n_kv_heads;
  std::atomic<std::size_t> next{0};
  const auto n_workers = static_cast<std::size_t>(std::max(1, n_threads));
  parallel_for(std::min(n_workers, std::max<std::size_t>(n_tasks, 1)), n_threads,
               [&](std::size_t begin, std::size_t end, std::size_t) {
                 Workspace workspace;
                 for (auto worker = begin; worker < end; ++worker) {
                   for (auto task = next++; task < n_tasks; task = next++) {
                     const auto s = segments[task / row.n_kv_heads];
                     fn(static_cast<std::size_t>(row.bounds[s]),
                        static_cast<std::size_t>(row.bounds[s + 1]), task % row.n_kv_heads, task,
                        workspace);
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
  for_each_task(row, n_threads,
                [&](std::size_t start, std::size_t end, std::size_t kv_head, std::size_t,
                    Workspace& workspace) {
                  forward_task(row, inputs, start, end, kv_head, workspace, out, log_sum);
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
  const auto n_segments = row.bounds.empty() ? 0 : row.bounds.size() - 1;
  std::vector<Moments> moments(n_segments * row.n_heads);
  for_each_task(row, n_threads,
                [&](std::size_t start, std::size_t end, std::size_t kv_head, std::size_t task,
                    Workspace& workspace) {
                  backward_task(row, inputs, d_out, out, log_sum, start, end, kv_head, workspace,
                                gradients, std::span(moments).subspan(task * group, group));
                });
  if (row.bias == TimeBias::none) return;
  for (std::size_t i = 0; i < moments.size(); ++i) {
    const auto head = i % row.n_heads;
    gradients.a[head] -= moments[i].value;
    gradients.tau[head] += moments[i].slope * static_cast<double>(row.a[head] / row.tau[head]);
  }
}

}  // namespace chronoward
