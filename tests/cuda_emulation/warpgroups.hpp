// wgmma: products of tiles in shared memory that go on by themselves.
//
// Each warp computes its 16 rows. What it finds beyond wrong results: operands that were not
// published to the asynchronous proxy after they were written, that a barrier does not order, or that
// are written before the product is waited for; tiles out of bounds or of another layout than the one
// that kernels use; products without a fence before them, or without a wait after them; warps of a
// group that multiply different tiles.
#pragma once

#include "instructions.hpp"

namespace emulation {

constexpr int PRODUCT_DEPTH = 16;  // of k, elements of 16 bits

inline void publish() { current->published = ++block.time; }

// A tile whose rows are 128 bytes of k, as a descriptor tells of it.
struct Tile {
  uint32_t start, eight_rows;

  explicit Tile(uint64_t descriptor)
      : start(static_cast<uint32_t>(descriptor & 0x3fff) * 16),
        eight_rows(static_cast<uint32_t>(descriptor >> 32 & 0x3fff) * 16) {
    if (descriptor >> 62 != 1) fail("a descriptor of another layout than the 128-byte swizzle");
    if ((descriptor >> 49 & 7) != 0) fail("a descriptor with a base offset");
    if (eight_rows % 1024 != 0) fail("eight rows that do not begin at a multiple of 1024 bytes");
  }
  // The byte of two elements, from an even k on. The hardware exchanges bits of the address itself.
  uint32_t place(int row, int k) const {
    const uint32_t plain = start + row / 8 * eight_rows + row % 8 * 128 + k * 2;
    const uint32_t place = plain ^ (plain >> 7 & 7) << 4;
    if (place + 4 > dynamic_bytes) fail("a tile beyond the launch's dynamic shared memory");
    return place;
  }
};

// Calls function(cell) for each of the cells of a row of a tile.
template <class Function>
void each_cell(const Tile& tile, int first_row, int rows, const Function& function) {
  for (int row = first_row; row < first_row + rows; ++row) {
    for (int k = 0; k < PRODUCT_DEPTH; k += 2) {
      const uint32_t place = tile.place(row, k);
      for (uint32_t i = place / CELL; i < (place + 4) / CELL; ++i) function(i);
    }
  }
}

inline void begin_read(const Tile& tile, int first_row, int rows) {
  each_cell(tile, first_row, rows, [](uint32_t i) {
    Cell& cell = cells[i];
    note_read(i * CELL, CELL, true);
    if (block.thread[cell.writer].published < cell.written) {
      fail_at("wgmma reads what its writer did not publish to the asynchronous proxy", i * CELL,
              cell.writer);
    }
    if (cell.product_epoch != block.first_epoch) cell.products = 0;
    cell.product_epoch = block.first_epoch;
    ++cell.products;
  });
}
inline void end_read(const Tile& tile, int first_row, int rows) {
  each_cell(tile, first_row, rows, [](uint32_t i) {
    --cells[i].products;
    note_read(i * CELL, CELL, true);  // a write since the last barrier would race with it
  });
}

inline int first_row_of_warp() { return current->warp % 4 * 16; }

inline void compute(const Product& product) {
  const Tile a(product.a), b(product.b);
  const auto kind = static_cast<Operand>(product.kind);
  const auto read = [&](const Tile& tile, int row, float (&to)[PRODUCT_DEPTH]) {
    for (int k = 0; k < PRODUCT_DEPTH; k += 2) {
      unsigned bits;
      std::memcpy(&bits, arena + tile.place(row, k), 4);
      unpack(bits, kind, &to[k]);
    }
  };
  float left[16][PRODUCT_DEPTH];
  for (int row = 0; row < 16; ++row) read(a, first_row_of_warp() + row, left[row]);
  for (int column = 0; column < product.columns; ++column) {
    float right[PRODUCT_DEPTH];
    read(b, column, right);
    for (int row = 0; row < 16; ++row) {
      float sum = 0.0f;
      for (int k = 0; k < PRODUCT_DEPTH; ++k) sum += left[row][k] * right[k];
      const int lane = row % 8 * 4 + column % 8 / 2;
      product.c[lane][column / 8 * 4 + row / 8 * 2 + column % 2] += sum;
    }
  }
}

inline void warpgroup_fence() {
  int nothing = 0;
  collective("wgmma.fence", nothing, [](int**) {
    for (int lane = 0; lane < LANES; ++lane) {
      block.thread[current->warp * LANES + lane].sums_ready = true;
    }
  });
}

// c: a thread's columns / 2 sums, as mma has them of 8 columns after 8.
inline void warpgroup_multiply(float* c, int columns, uint64_t a, uint64_t b, Operand kind) {
  struct Operands {
    float* c;
    uint64_t a, b;
  } mine{c, a, b};
  if (!current->sums_ready) fail("wgmma without wgmma.fence before it");
  collective("wgmma", mine, [columns, kind](Operands** lanes) {
    Product product{{}, lanes[0]->a, lanes[0]->b, columns, static_cast<int>(kind)};
    for (int lane = 0; lane < LANES; ++lane) {
      if (lanes[lane]->a != product.a || lanes[lane]->b != product.b) {
        fail("lanes with different descriptors");
      }
      product.c[lane] = lanes[lane]->c;
    }
    begin_read(Tile(product.a), first_row_of_warp(), 16);
    begin_read(Tile(product.b), 0, columns);
    if (options.eager_copies) compute(product);
    Warp& warp = block.warp[current->warp];
    warp.open.push_back(product);
    // Of a, each warp of a group has other rows of the same tile.
    warp.issued.push_back(product.a);
    warp.issued.push_back(product.b);
  });
}

inline void commit_products() {
  int nothing = 0;
  collective("wgmma.commit_group", nothing, [](int**) {
    Warp& warp = block.warp[current->warp];
    warp.groups.push_back(std::move(warp.open));
    warp.open.clear();
  });
}

inline void wait_for_products(int groups) {
  int nothing = 0;
  collective("wgmma.wait_group", nothing, [groups](int**) {
    Warp& warp = block.warp[current->warp];
    while (static_cast<int>(warp.groups.size()) > groups) {
      for (const Product& product : warp.groups.front()) {
        if (!options.eager_copies) compute(product);
        end_read(Tile(product.a), first_row_of_warp(), 16);
        end_read(Tile(product.b), 0, product.columns);
      }
      warp.groups.erase(warp.groups.begin());
    }
    for (int lane = 0; lane < LANES; ++lane) {
      block.thread[current->warp * LANES + lane].sums_ready = false;
    }
  });
}

}  // namespace emulation
