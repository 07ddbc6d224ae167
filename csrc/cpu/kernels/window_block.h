// The fused block of windows. A row of windows after the other goes through all of it while it is in the
// second-level cache: norm, qkv, windows, projection and residual. Where that makes too few tasks, each step
// goes over the whole map.
#pragma once
#include "attention_block.h"
#include "window_attention.h"

namespace vitkern::VITKERN_ISA {

// Rows of windows, or whole images, at a time: as many as give a product enough rows for its weight. What they
// read of the map are one or two runs of its rows, two where a shifted row of windows comes around.
struct Strips {
  const Windows& w;
  int64_t groups = 1, images = 1, count;  // of an image's rows of windows; of images, where groups is 1; tasks
  int64_t batch;

  Strips(const Windows& windows, int64_t batch_) : w(windows), batch(batch_) {
    const int64_t strip = w.wh * w.width, image = w.height * w.width;
    groups = larger<int64_t>(1, w.down / ((kRowsOfTask + strip - 1) / strip));
    if (groups == 1) images = larger<int64_t>(1, smaller(batch, (kRowsOfTask + image - 1) / image));
    count = groups > 1 ? batch * groups : (batch + images - 1) / images;
  }

  struct Run { int64_t start, rows; };  // positions in the map
  struct Task { int64_t first, last; Run runs[2]; };  // windows
  Task task(int64_t i) const {
    const int64_t image = w.height * w.width, per_image = w.per_image();
    if (groups == 1) {
      const int64_t b0 = batch * i / count, b1 = batch * (i + 1) / count;
      return {b0 * per_image, b1 * per_image, {{b0 * image, (b1 - b0) * image}, {0, 0}}};
    }
    const int64_t b = i / groups, g = i % groups, s0 = w.down * g / groups, s1 = w.down * (g + 1) / groups;
    Task t{b * per_image + s0 * w.across, b * per_image + s1 * w.across, {{0, 0}, {0, 0}}};
    int64_t run = -1, expected = -1;
    for (int64_t y = s0 * w.wh; y < s1 * w.wh; y++) {
      const int64_t from = w.source(y, w.sh, w.height, w.down * w.wh, w.pad_first);
      if (from < 0) continue;
      if (from != expected) t.runs[++run].start = b * image + from * w.width;
      t.runs[run].rows += w.width;
      expected = from + 1;
    }
    return t;
  }
};

template <class C, class T>
static void window_block_in_strips(const Runtime& rt, const WindowBlockArgs& a, const Windows& w, const Strips& strips) {
  using H = Inner<C, T>;
  const WindowAttentionArgs& window = a.window;
  const int64_t c = window.heads * window.head_dim;
  PaddedVectors vectors(rt, kVectors, 6, larger(a.qkv.out, a.qkv.in));
  const float* qkv_bias = vectors.add((const T*)a.qkv_bias, a.qkv.out);
  const Epilogue<T> second =
      onto(vectors, c, (const T*)a.proj_bias, (const T*)a.gamma, (const T*)a.x, (T*)a.y);
  const Operand by_qkv = transposed_weight<C, T>(rt, kPackedB, a.qkv);
  const Operand by_proj = transposed_weight<C, T>(rt, kPackedB2, a.proj);
  const PairBias bias = pair_bias(rt, w, (const T*)window.bias_table, window.heads);
  const H* padding = padding_of<H, T>(rt, window, kNormed);
  with_rows<C>((const T*)a.x, a.qkv.in, a.qkv.in, a.norm, by_qkv.range, vectors, [&](const auto& x) {
    for_tasks(rt, strips.count, [&](int64_t i) {
      const Strips::Task t = strips.task(i);
      const int64_t rows = t.runs[0].rows + t.runs[1].rows;
      H* qkv = (H*)rt.scratch(kBlockQkv, rows * 3 * c * sizeof(H));
      H* heads = (H*)rt.scratch(kBlockHeads, rows * c * sizeof(H));
      Epilogue<H> first{qkv, 3 * c};
      first.bias = qkv_bias;
      int64_t at = 0;
      for (const Strips::Run& run : t.runs) {
        if (run.rows > 0) multiply_run<C>(rt, x, run.start, run.rows, by_qkv, 3 * c, c, first, at);
        at += run.rows;
      }
      WindowAttentionArgs local = window;
      local.qkv = qkv, local.out = heads, local.lse = nullptr;
      const MapPart part{t.runs[0].start, t.runs[0].rows - t.runs[1].start};
      with_head_dim(window.head_dim, [&](auto d) {
        attend_windows<decltype(d)::value>(rt, local, w, bias, padding, {t.first, t.last, 0, window.heads}, part);
      });
      at = 0;
      for (const Strips::Run& run : t.runs) {
        const Rows<C, H> source{heads + at * c, c, c, by_proj.range};
        if (run.rows > 0) multiply_run<C>(rt, source, 0, run.rows, by_proj, c, c, second, run.start);
        at += run.rows;
      }
    });
  });
}

template <class T>
static void window_block_as(const Runtime& rt, const WindowBlockArgs& a) {
  WindowAttentionArgs window = a.window;
  const int64_t rows = window.batch * window.height * window.width, c = window.heads * window.head_dim;
  if (rows == 0) return;
  const Windows w(window);
  const Strips strips(w, window.batch);
  if (a.qkv.form == a.proj.form && (rt.threads == 1 || strips.count >= 2 * rt.threads))
    return with_form<T>(a.qkv.form, [&](auto form) { window_block_in_strips<decltype(form), T>(rt, a, w, strips); });
  with_inner<T>(a.qkv, a.proj, [&](auto inner) {
    using H = decltype(inner);
    H* qkv = (H*)rt.scratch(kBlockQkv, rows * 3 * c * sizeof(H));
    H* heads = (H*)rt.scratch(kBlockHeads, rows * c * sizeof(H));
    qkv_of(rt, (const T*)a.x, rows, a.norm, a.qkv, a.qkv_bias, qkv);
    window.qkv = qkv, window.out = heads, window.lse = nullptr;
    const PairBias bias = pair_bias(rt, w, (const T*)window.bias_table, window.heads);
    attend_all_windows(rt, window, w, bias, padding_of<H, T>(rt, window, kNormed));
    project(rt, heads, rows, a.proj, a.proj_bias, a.gamma, (const T*)a.x, (T*)a.y);
  });
}
static void window_block(const Runtime& rt, const WindowBlockArgs& a) {
  with_type(a.window.type, [&](auto t) { window_block_as<decltype(t)>(rt, a); });
}

}  // namespace vitkern::VITKERN_ISA
