// A random call of each kernel, its gradient included, with the shapes and options that the operators of
// csrc/cpu allow.
#pragma once
#include "host.hpp"

namespace driver {

struct Call {
  const Kernels& k;
  Random& r;
  Tensors& t;

  Type type() { return r.chance() ? Type::f32 : Type::bf16; }
  Activation activation() { return (Activation)r.between(0, 5); }

  // Sometimes with a number that tile registers cannot take.
  const void* with_odd(const void* data, Type type, int64_t n) {
    if (type == Type::f32 && n > 0 && r.chance(4)) ((float*)data)[r.between(0, n - 1)] = r.chance() ? 1e-30f : 1e30f;
    return data;
  }

  Weight plain(Type type, int64_t out, int64_t in) {
    const void* data = t.input(type, out * in, 1.f / std::sqrt((float)in + 1.f));
    return {with_odd(data, type, out * in), nullptr, 0, out, in, Form::native};
  }

  // A weight that is packed already, in one of its forms, or not.
  Weight weight(Type type, int64_t out, int64_t in) {
    Weight w = plain(type, out, in);
    const Form form = type == Type::f32 ? (Form)r.between(0, 2) : Form::native;
    if (form != Form::int8 && r.chance(3)) return w;
    w.form = form;
    w.packed_bytes = k.packed_bytes(type, form, out, in);
    // PyTorch aligns what it allocates; so do packed weights.
    void* packed;
    if (posix_memalign(&packed, 64, w.packed_bytes)) abort();
    packed_.push_back(packed);
    w.packed = packed;
    if (form == Form::int8) {
      int8_t* values = (int8_t*)t.raw(out * in, 1);
      for (int64_t i = 0; i < out * in; i++) values[i] = (int8_t)r.between(-64, 63);
      const float* scale = (const float*)t.input(Type::f32, out, 0.01f, 0.02f);
      k.pack_int8(kRuntime, {values, scale, out, in, r.chance(), -3.f, 4.f, packed});
    } else {
      k.pack_weight(kRuntime, {type, form, w.data, out, in, packed});
    }
    return w;
  }

  Norm norm(Type type, int64_t columns) {
    const Type own = r.chance() ? Type::f32 : type;
    return {true, own, t.maybe(own, columns, 0.3f, 1.f), t.maybe(own, columns), 1e-5f};
  }

  int64_t stride(int64_t columns) { return columns + (r.chance() ? r.between(0, 3) : 0); }
  static int64_t rows_at(int64_t rows, int64_t columns, int64_t stride) {
    return rows ? (rows - 1) * stride + columns : 0;
  }

  void linear() {
    const Type y = type();
    // K in pieces, too.
    const int64_t rows = r.size(0, 97), in = r.chance(8) ? r.between(760, 1700) : r.size(0, 97), out = r.size(0, 97);
    const int64_t xs = stride(in), rs = stride(out), floats = rows_at(rows, in, xs);
    const bool save = r.chance();
    LinearArgs a{y, rows, with_odd(t.input(y, floats), y, floats), xs, save ? plain(y, out, in) : weight(y, out, in),
                 t.maybe(y, out), activation(), t.maybe(y, out), t.maybe(y, rows_at(rows, out, rs)), rs,
                 t.output("y", y, rows * out), save ? t.output("pre", y, rows * out) : nullptr};
    k.linear(kRuntime, a);
    if (!save) return;
    const bool plainly = a.activation == Activation::none && !a.gamma && r.chance();
    k.linear_backward(kRuntime, {y, rows, t.input(y, rows * out), a.x, xs, a.weight, plainly ? nullptr : a.pre,
                                 a.activation, a.gamma, t.wanted("dx", y, rows * in),
                                 t.wanted("dweight", y, out * in), t.wanted("dbias", y, out),
                                 a.gamma ? t.wanted("dgamma", y, out) : nullptr});
  }

  void mlp() {
    const Type y = type();
    const int64_t rows = r.chance(8) ? r.between(1500, 1600) : r.size(0, 97);
    const int64_t in = r.size(1, 97), hidden = r.size(0, 97), normed = r.chance();
    const int64_t out = normed ? in : r.size(0, 97), xs = stride(in);
    const bool save = !normed && r.chance();
    MlpArgs a = {};
    a.type = y, a.rows = rows, a.x_stride = xs, a.x = t.input(y, rows_at(rows, in, xs));
    if (normed) a.norm = norm(y, in);
    a.weight1 = save ? plain(y, hidden, in) : weight(y, hidden, in), a.bias1 = t.maybe(y, hidden);
    a.weight2 = save ? plain(y, out, hidden) : weight(y, out, hidden), a.bias2 = t.maybe(y, out);
    a.activation = activation(), a.gamma = t.maybe(y, out);
    a.residual_stride = normed ? xs : stride(out);
    a.residual = normed ? a.x : t.maybe(y, rows_at(rows, out, a.residual_stride));
    a.y = t.output("y", y, rows * out);
    if (save) a.pre1 = t.output("pre1", y, rows * hidden);
    if (save && a.gamma) a.out2 = t.output("out2", y, rows * out);
    k.mlp(kRuntime, a);
    if (!save) return;
    k.mlp_backward(kRuntime, {y, rows, t.input(y, rows * out), a.x, xs, a.weight1, a.weight2, a.pre1, a.out2,
                              a.activation, a.gamma, t.wanted("dx", y, rows * in),
                              t.wanted("dweight1", y, hidden * in), t.wanted("dbias1", y, hidden),
                              t.wanted("dweight2", y, out * hidden), t.wanted("dbias2", y, out),
                              a.gamma ? t.wanted("dgamma", y, out) : nullptr});
  }

  void patch_embed() {
    const Type y = type();
    PatchGrid g{r.size(0, 2), r.size(1, 5), 0, 0, r.size(1, 17), r.size(1, 17)};
    g.height = g.patch_height * r.size(1, 7), g.width = g.patch_width * r.size(1, 7);
    const int64_t out = r.size(1, 49), pixels = volume({g.batch, g.channels, g.height, g.width});
    Weight w = plain(y, out, g.in());
    const void* images = t.input(y, pixels);
    k.patch_embed(kRuntime, {y, g, images, w, t.maybe(y, out), t.output("y", y, g.rows() * out)});
    k.patch_embed_backward(kRuntime, {y, g, t.input(y, g.rows() * out), images, w, t.wanted("dimages", y, pixels),
                                      t.wanted("dweight", y, out * g.in()), t.wanted("dbias", y, out)});
  }

  void layer_norm() {
    const Type y = type(), own = r.chance() ? Type::f32 : y;
    const int64_t rows = r.size(0, 97), columns = r.size(1, 97), all = rows * columns;
    LayerNormArgs a{y, own, rows, columns, t.input(y, all), t.maybe(y, all), t.maybe(own, columns),
                    t.maybe(own, columns), 1e-5f, t.output("y", y, all), nullptr, nullptr};
    if (a.residual) a.sum = t.output("sum", y, all);
    a.stats = (float*)t.wanted("stats", Type::f32, rows * 2);
    k.layer_norm(kRuntime, a);
    if (!a.stats) return;
    k.layer_norm_backward(kRuntime, {y, own, rows, columns, t.input(y, all), t.maybe(y, all),
                                     a.residual ? a.sum : a.x, a.weight, a.stats, t.wanted("dx", y, all),
                                     t.wanted("dweight", own, columns), t.wanted("dbias", own, columns)});
  }

  // Rows of heads as views have them: of (batch, heads, rows, ..) or (batch, rows, heads, ..), with a gap.
  const void* heads(Type type, int64_t batch, int64_t heads, int64_t rows, int64_t head_dim, Strides3& s) {
    const int64_t gap = stride(head_dim);
    s = r.chance() ? Strides3{heads * rows * gap, rows * gap, gap} : Strides3{rows * heads * gap, gap, heads * gap};
    return t.input(type, batch * heads * rows > 0 ? batch * heads * rows * gap - (gap - head_dim) : 0);
  }

  void attention() {
    const Type y = type();
    AttentionBackwardArgs b = {};
    AttentionArgs& a = b.forward;
    a.type = y, a.batch = r.size(0, 3), a.heads = r.size(1, 3), a.queries = r.size(0, 97), a.keys = r.size(0, 97);
    a.head_dim = r.size(1, 97);
    a.q = heads(y, a.batch, a.heads, a.queries, a.head_dim, a.q_strides);
    a.k = heads(y, a.batch, a.heads, a.keys, a.head_dim, a.k_strides);
    a.v = heads(y, a.batch, a.heads, a.keys, a.head_dim, a.v_strides);
    const int64_t whole[4] = {a.batch, a.heads, a.queries, a.keys};
    int64_t elements = 1;
    for (int i = 3; i >= 0; i--) {
      b.bias_sizes[i] = r.chance() ? 1 : whole[i];
      a.bias_strides[i] = b.bias_sizes[i] == 1 ? 0 : elements;
      elements *= b.bias_sizes[i];
    }
    a.bias = t.maybe(y, elements);
    if (r.chance()) {
      uint8_t* mask = (uint8_t*)t.raw(a.batch * a.keys, 1);
      for (int64_t i = 0; i < a.batch * a.keys; i++) mask[i] = r.chance(3);
      a.key_padding_mask = mask;
    }
    a.scale = 0.3f;
    if (r.chance(3)) a.dropout_p = 0.3, a.seed = r.next();
    a.out = t.output("out", y, volume({a.batch, a.queries, a.heads, a.head_dim}));
    a.lse = (float*)t.wanted("lse", Type::f32, volume({a.batch, a.heads, a.queries}));
    k.attention(kRuntime, a);
    if (!a.lse) return;
    b.dout = heads(y, a.batch, a.heads, a.queries, a.head_dim, b.dout_strides);
    b.dq = t.wanted("dq", y, volume({a.batch, a.queries, a.heads, a.head_dim}));
    b.dk = t.wanted("dk", y, volume({a.batch, a.keys, a.heads, a.head_dim}));
    b.dv = t.wanted("dv", y, volume({a.batch, a.keys, a.heads, a.head_dim}));
    if (a.bias) b.dbias = t.wanted("dbias", y, elements);
    k.attention_backward(kRuntime, b);
  }

  WindowAttentionArgs windows(Type y) {
    WindowAttentionArgs a = {};
    a.type = y, a.batch = r.size(0, 2), a.heads = r.size(1, 3), a.head_dim = r.size(1, 33);
    a.window_height = r.size(1, 9), a.window_width = r.size(1, 9);
    a.height = a.window_height * r.between(1, 3) + (r.chance() ? r.between(0, a.window_height - 1) : 0);
    a.width = a.window_width * r.between(1, 3) + (r.chance() ? r.between(0, a.window_width - 1) : 0);
    a.shift_height = r.between(0, a.window_height - 1), a.shift_width = r.between(0, a.window_width - 1);
    a.pad_first = r.chance(), a.scale = 0.3f;
    a.bias_table = t.maybe(y, (2 * a.window_height - 1) * (2 * a.window_width - 1) * a.heads);
    return a;
  }

  void window_attention() {
    const Type y = type();
    WindowAttentionBackwardArgs b = {};
    WindowAttentionArgs& a = b.forward;
    a = windows(y);
    const int64_t channels = a.heads * a.head_dim, all = volume({a.batch, a.height, a.width, channels});
    const int64_t down = (a.height + a.window_height - 1) / a.window_height;
    const int64_t across = (a.width + a.window_width - 1) / a.window_width;
    a.qkv = t.input(y, 3 * all);
    a.pad = a.height % a.window_height || a.width % a.window_width ? t.maybe(y, 3 * channels) : nullptr;
    a.out = t.output("out", y, all);
    a.lse = (float*)t.wanted("lse", Type::f32,
                             volume({a.batch, down * across, a.heads, a.window_height, a.window_width}));
    k.window_attention(kRuntime, a);
    if (!a.lse) return;
    b.dout = t.input(y, all);
    b.dqkv = t.wanted("dqkv", y, 3 * all);
    if (a.bias_table)
      b.dbias_table = t.wanted("dbias_table", y, (2 * a.window_height - 1) * (2 * a.window_width - 1) * a.heads);
    if (a.pad) b.dpad = t.wanted("dpad", y, 3 * channels);
    k.window_attention_backward(kRuntime, b);
  }

  void deformable_attention() {
    const Type y = type(), beside = r.chance() ? Type::f32 : y;
    DeformableLevel level[4];
    DeformableAttentionBackwardArgs b = {};
    DeformableAttentionArgs& a = b.forward;
    a.type = y, a.location_type = beside, a.weight_type = r.chance() ? Type::f32 : y;
    a.batch = r.size(0, 2), a.queries = r.size(0, 33), a.heads = r.size(1, 3), a.head_dim = r.size(1, 33);
    a.levels = r.between(1, 4), a.points = r.size(1, 5);
    for (int64_t i = 0; i < a.levels; i++) {
      level[i] = {r.size(1, 17), r.size(1, 17), a.pixels};
      a.pixels += level[i].height * level[i].width;
    }
    a.level = level;
    const int64_t points = volume({a.batch, a.queries, a.heads, a.levels, a.points});
    const int64_t in = volume({a.batch, a.pixels, a.heads, a.head_dim});
    const int64_t out = volume({a.batch, a.queries, a.heads, a.head_dim});
    a.value = t.input(y, in);
    // Around the map, or mostly far away from it.
    a.locations = t.input(beside, 2 * points, r.chance(3) ? 1e30f : 0.7f, 0.5f);
    a.weights = t.input(a.weight_type, points);
    a.out = t.output("out", y, out);
    k.deformable_attention(kRuntime, a);
    b.dout = t.input(y, out);
    b.dvalue = t.wanted("dvalue", y, in);
    b.dlocations = t.wanted("dlocations", beside, 2 * points);
    b.dweights = t.wanted("dweights", a.weight_type, points);
    k.deformable_attention_backward(kRuntime, b);
  }

  void attention_block() {
    const Type y = type();
    const int64_t batch = r.size(0, 3), tokens = r.size(0, 97), heads = r.size(1, 3), head_dim = r.size(1, 33);
    const int64_t width = heads * head_dim, all = volume({batch, tokens, width});
    AttentionBlockArgs a{y, batch, tokens, heads, head_dim, t.input(y, all, 2.f, 0.5f), norm(y, width),
                         weight(y, 3 * width, width), t.maybe(y, 3 * width), weight(y, width, width),
                         t.maybe(y, width), t.maybe(y, width), 0.3f, t.output("y", y, all)};
    k.attention_block(kRuntime, a);
  }

  void window_block() {
    const Type y = type();
    WindowAttentionArgs w = windows(y);
    const int64_t width = w.heads * w.head_dim, all = volume({w.batch, w.height, w.width, width});
    const void* bias = t.maybe(y, 3 * width);
    w.pad = bias;
    WindowBlockArgs a{w, t.input(y, all, 2.f, 0.5f), norm(y, width), weight(y, 3 * width, width), bias,
                      weight(y, width, width), t.maybe(y, width), t.maybe(y, width), t.output("y", y, all)};
    k.window_block(kRuntime, a);
  }

  ~Call() {
    for (void* packed : packed_) free(packed);
  }
  std::vector<void*> packed_ = {};
};

}  // namespace driver
