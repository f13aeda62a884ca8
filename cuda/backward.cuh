// The backward scan, in one pass over x, a, b, c, grad_y and the four gradients:
//
//     dh_t = c_t g_t + z_{t+1}    z_t = a_t dh_t    da_t = dh_t h_{t-1}    db_t = dh_t x_t    dx_t = dh_t b_t
//     dc_t = g_t h_t
//
// h is recomputed inside the tile from the state saved before it. What passes between stretches of time is z and
// not dh: its gates are then those of the forward scan over the same stretch, and no gate of a neighbour is needed.
#pragma once

#include "look_back.cuh"
#include "prefetch.cuh"
#include "sequences.cuh"
#include "ticket.cuh"

namespace QUICK_SSM_NAMESPACE {

template <class T, bool kVectorised, bool kPacked>
struct Backward {
    using Arguments = Params;
    using Tile = typename Tiles<T>::Backward;
    using Acc = typename Tile::Acc;
    using Operator = CarryOperator<Acc, kPacked>;
    using TileLookBack = LookBack<Tile, kPacked>;
    using TileRows = Rows<Tile, kVectorised>;
    using Segment = typename TileRows::Segment;
    static constexpr int kVector = Tile::kVector;
    static constexpr int kSteps = Tile::kSteps;

    struct Shared {
        SharedArray<Carry<Acc>, Tile::kSegments * Tile::kRow> segments;
        SharedArray<Acc, Tile::kSegments * Tile::kRow> adjoints;  // the z of each segment; gates are in `segments`
        SharedArray<Acc, Tile::kChannels> entering;
        typename TileLookBack::Shared look_back;
        Tickets::Shared tickets;
        SequenceMarks<Tile, kPacked> marks;
    };

    QUICK_SSM_DEVICE static void run(const Params& params) {
        QUICK_SSM_SHARED(Shared, shared);
        Tickets tickets(params, shared.tickets);
        const uint32_t columns = params.batch * params.channel_tiles;
        for (uint32_t ticket; (ticket = tickets.current()) < columns * params.chunks;) {
            tile(params, shared, tickets, ticket % columns, ticket / columns);
        }
        tickets.finish();
    }

private:
    QUICK_SSM_DEVICE static bool needs_h(const Params& params) { return params.da || params.dc; }
    QUICK_SSM_DEVICE static bool needs_z(const Params& params) {
        return params.dx || params.da || params.db || params.dh0;
    }

    // `order` counts chunks from the end of time.
    QUICK_SSM_DEVICE static void tile(const Params& params, Shared& shared, Tickets& tickets, uint32_t column,
                                      uint32_t order) {
        const int segment = thread_index() / Tile::kLanes;
        const uint32_t chunk = params.chunks - 1 - order;
        const int64_t tile_time = static_cast<int64_t>(chunk) * Tile::kLength;
        const int64_t time = tile_time + segment * kSteps;
        const TileRows rows(params, column, time);

        // A gate of one carries the gradient of the last state through the steps beyond the end.
        Segment x, a, b, c;
        Acc g[kSteps][kVector];
        rows.load(params.a, true, 1, a);
        rows.load(params.x, needs_h(params) || params.db, 0, x);
        rows.load(params.b, needs_h(params) || params.dx, 0, b);
        rows.load(params.c, needs_z(params), 1, c);
        if (params.grad_y.dtype == Element<T>::kType) {
            Segment packed;
            rows.load(params.grad_y, true, 0, packed);
            QUICK_SSM_UNROLL
            for (int s = 0; s < kSteps; ++s) {
                QUICK_SSM_UNROLL
                for (int v = 0; v < kVector; ++v) g[s][v] = packed[s][v];
            }
        } else {
            rows.load_any(params.grad_y, g);
        }

        prefetch_ahead(params, order * params.batch * params.channel_tiles + column);

        SegmentMarks<Tile, kPacked> marks;
        if constexpr (kPacked) {
            mark_sequences<Tile>(params, tile_time, rows, params.grad_last_state, params.dh0, shared.marks);
            marks.read(shared.marks, segment);
        }

        scan_segment(params, shared, rows, marks, segment, x, a, b, c, g);
        QUICK_SSM_BARRIER("segments scanned");

        // The first kChannels threads carry on with the tile as a whole.
        const int slot = thread_index();
        const TileLookBack look_back(params, shared.look_back, tickets.tag(), column, order);
        Carry<Acc> own = Operator::nothing();
        Acc initial = 0;
        if (slot < Tile::kChannels) {
            own = combine_segments(params, shared, rows, chunk, slot);
            if (!kPacked && order == 0) {
                initial = rows.load_state(params.grad_last_state, rows.batch(), rows.slot_channel(slot));
            }
            if (needs_z(params)) look_back.publish(slot, own, initial);
        }
        QUICK_SSM_BARRIER("segments combined");

        QUICK_SSM_UNROLL
        for (int s = 0; s < kSteps; ++s) {
            a[s].forget(params.zero), b[s].forget(params.zero), x[s].forget(params.zero), c[s].forget(params.zero);
        }
        // States, and dc with them, while the carries of other tiles arrive. From here on g is c * g.
        Acc before[kSteps][kVector];
        Acc h[kVector];
        QUICK_SSM_UNROLL
        for (int v = 0; v < kVector; ++v) h[v] = shared.segments[segment * Tile::kRow + rows.slot(v)].state;
        QUICK_SSM_UNROLL
        for (int s = 0; s < kSteps; ++s) {
            if (marks.starts(s)) {
                QUICK_SSM_UNROLL
                for (int v = 0; v < kVector; ++v) h[v] = initial_state(params, shared, rows, segment, s, v);
            }
            Acc dc[kVector];
            QUICK_SSM_UNROLL
            for (int v = 0; v < kVector; ++v) {
                before[s][v] = h[v];
                h[v] = a[s][v] * h[v] + b[s][v] * x[s][v];
                dc[v] = g[s][v] * h[v];
                g[s][v] = c[s][v] * g[s][v];
            }
            if (params.dc) rows.store(params.dc, s, dc);
        }
        if (!needs_z(params)) {
            tickets.draw();
            return;
        }

        const Acc entering = look_back.entering(own, initial);
        if (slot < Tile::kChannels) shared.entering[slot] = entering;
        QUICK_SSM_BARRIER("entering gradient written");
        tickets.draw();
        QUICK_SSM_UNROLL
        for (int s = 0; s < kSteps; ++s) {
            a[s].forget(params.zero), b[s].forget(params.zero), x[s].forget(params.zero);
        }
        write_gradients(params, shared, marks, column, chunk, x, a, b, g, before);
    }

    // Called once the loads of the own tile are under way.
    QUICK_SSM_DEVICE static void prefetch_ahead(const Params& params, uint32_t ticket) {
        if constexpr (kVectorised) {
            const uint32_t columns = params.batch * params.channel_tiles;
            const uint32_t ahead = ticket_to_prefetch(ticket);
            if (ahead >= columns * params.chunks) return;
            const uint32_t column = ahead % columns, chunk = params.chunks - 1 - ahead / columns;
            prefetch<Tile>(params, params.a, column, chunk);
            prefetch<Tile>(params, params.x, column, chunk);
            prefetch<Tile>(params, params.b, column, chunk);
            if (needs_z(params)) prefetch<Tile>(params, params.c, column, chunk);
            if (params.grad_y.dtype == Element<T>::kType) prefetch<Tile>(params, params.grad_y, column, chunk);
        }
    }

    // Scans the segment in both directions from zero.
    QUICK_SSM_DEVICE static void scan_segment(const Params& params, Shared& shared, const TileRows& rows,
                                              const SegmentMarks<Tile, kPacked>& marks, int segment, const Segment& x,
                                              const Segment& a, const Segment& b, const Segment& c,
                                              const Acc (&g)[kSteps][kVector]) {
        // One channel after the other: few values are alive besides the inputs.
        QUICK_SSM_UNROLL
        for (int v = 0; v < kVector; ++v) {
            Acc gate = marks.any() ? Operator::kCut : 1, h = 0, z = 0;
            QUICK_SSM_UNROLL
            for (int s = 0; s < kSteps; ++s) {
                if (marks.starts(s)) h = initial_state(params, shared, rows, segment, s, v);
                gate = Operator::multiply(gate, a[s][v]);
                h = a[s][v] * h + b[s][v] * x[s][v];
            }
            QUICK_SSM_UNROLL
            for (int s = kSteps - 1; s >= 0; --s) {
                if (marks.ends(s)) z = grad_last_state(params, shared, rows, segment, s, v);
                z = a[s][v] * (c[s][v] * g[s][v] + z);
            }
            const int entry = segment * Tile::kRow + rows.slot(v);
            shared.segments[entry] = {Operator::gate_of(gate), h};
            shared.adjoints[entry] = z;
        }
    }

    // Leaves with each segment the state that enters it, and the carry of z over all later segments; returns the
    // carry of z over the tile.
    QUICK_SSM_DEVICE static Carry<Acc> combine_segments(const Params& params, Shared& shared, const TileRows& rows,
                                                        uint32_t chunk, int slot) {
        Acc h = 0;
        if (needs_h(params)) {
            const int64_t spacing = int64_t{1} << params.saved_shift;
            const int64_t saved_rows = (params.length + spacing - 1) >> params.saved_shift;
            h = rows.load_state(params.saved_states, rows.batch() * saved_rows + chunk, rows.slot_channel(slot));
        }
        QUICK_SSM_UNROLL
        for (int segment = 0; segment < Tile::kSegments; ++segment) {
            Carry<Acc>& entry = shared.segments[segment * Tile::kRow + slot];
            const Acc after = Operator::apply(entry, h);
            entry.state = h;
            h = after;
        }
        Carry<Acc> later = Operator::nothing();
        QUICK_SSM_UNROLL
        for (int segment = Tile::kSegments - 1; segment >= 0; --segment) {
            const int index = segment * Tile::kRow + slot;
            const Carry<Acc> here = {shared.segments[index].gate, shared.adjoints[index]};
            shared.segments[index].gate = later.gate;
            shared.adjoints[index] = later.state;
            later = Operator::combine(later, here);
        }
        return later;
    }

    // Runs the segment backwards from the z that really enters it. Addresses are worked out anew: registers are
    // scarce during the look-back.
    QUICK_SSM_DEVICE static void write_gradients(const Params& params, Shared& shared,
                                                 const SegmentMarks<Tile, kPacked>& marks, uint32_t column,
                                                 uint32_t chunk, const Segment& x, const Segment& a, const Segment& b,
                                                 const Acc (&cg)[kSteps][kVector],
                                                 const Acc (&before)[kSteps][kVector]) {
        forget(column, params.zero), forget(chunk, params.zero);
        const int segment = thread_index() / Tile::kLanes;
        const int64_t time = static_cast<int64_t>(chunk) * Tile::kLength + segment * kSteps;
        const TileRows rows(params, column, time);
        Acc z[kVector];
        QUICK_SSM_UNROLL
        for (int v = 0; v < kVector; ++v) {
            const int entry = segment * Tile::kRow + rows.slot(v);
            z[v] = Operator::apply({shared.segments[entry].gate, shared.adjoints[entry]},
                                   shared.entering[rows.slot(v)]);
        }
        QUICK_SSM_UNROLL
        for (int s = kSteps - 1; s >= 0; --s) {
            if (marks.ends(s)) {
                QUICK_SSM_UNROLL
                for (int v = 0; v < kVector; ++v) z[v] = grad_last_state(params, shared, rows, segment, s, v);
            }
            Acc da[kVector], db[kVector], dx[kVector];
            QUICK_SSM_UNROLL
            for (int v = 0; v < kVector; ++v) {
                const Acc dh = cg[s][v] + z[v];
                da[v] = dh * before[s][v];
                db[v] = dh * x[s][v];
                dx[v] = dh * b[s][v];
                z[v] = a[s][v] * dh;
            }
            if (params.da) rows.store(params.da, s, da);
            if (params.db) rows.store(params.db, s, db);
            if (params.dx) rows.store(params.dx, s, dx);
            if (params.dh0 && (kPacked ? marks.starts(s) : time + s == 0)) {
                const int64_t row = kPacked ? shared.marks.first[segment * kSteps + s] - 1 : rows.batch();
                rows.store_state(params.dh0, row, z);
            }
        }
    }

    // The state that enters the sequence which starts at step `s` of the segment.
    QUICK_SSM_DEVICE static Acc initial_state(const Params& params, Shared& shared, const TileRows& rows, int segment,
                                              int s, int v) {
        const int64_t sequence = static_cast<int64_t>(shared.marks.first[segment * kSteps + s]) - 1;
        return rows.load_state(params.initial_state, sequence, rows.channel(v));
    }
    // The gradient of the state that leaves the sequence which ends there.
    QUICK_SSM_DEVICE static Acc grad_last_state(const Params& params, Shared& shared, const TileRows& rows,
                                                int segment, int s, int v) {
        const int64_t sequence = static_cast<int64_t>(shared.marks.last[segment * kSteps + s]) - 1;
        return rows.load_state(params.grad_last_state, sequence, rows.channel(v));
    }
};

}  // namespace QUICK_SSM_NAMESPACE
