// The forward scan: h_t = a_t h_{t-1} + b_t x_t, y_t = c_t h_t, in one pass over x, a, b, c and y.
//
// A thread reads its segment into registers, scans it from zero, and keeps the inputs. Segments combine in shared
// memory, tiles through the look-back; then each thread runs its segment again from the state that really enters.
#pragma once

#include "look_back.cuh"
#include "prefetch.cuh"
#include "sequences.cuh"
#include "ticket.cuh"

namespace QUICK_SSM_NAMESPACE {

template <class T, bool kVectorised, bool kPacked>
struct Forward {
    using Arguments = Params;
    using Tile = typename Tiles<T>::Forward;
    using Acc = typename Tile::Acc;
    using Operator = CarryOperator<Acc, kPacked>;
    using TileLookBack = LookBack<Tile, kPacked>;
    using TileRows = Rows<Tile, kVectorised>;
    using Segment = typename TileRows::Segment;
    static constexpr int kVector = Tile::kVector;
    static constexpr int kSteps = Tile::kSteps;

    struct Shared {
        SharedArray<Carry<Acc>, Tile::kSegments * Tile::kRow> segments;
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
    QUICK_SSM_DEVICE static void tile(const Params& params, Shared& shared, Tickets& tickets, uint32_t column,
                                      uint32_t chunk) {
        const int segment = thread_index() / Tile::kLanes;
        const int64_t tile_time = static_cast<int64_t>(chunk) * Tile::kLength;
        const int64_t time = tile_time + segment * kSteps;
        const TileRows rows(params, column, time);

        // A gate of one carries the state through the steps beyond the end.
        Segment x, a, b, c;
        rows.load(params.a, true, 1, a);
        rows.load(params.x, true, 0, x);
        rows.load(params.b, true, 0, b);
        rows.load(params.c, params.y != nullptr, 1, c);

        prefetch_ahead(params, chunk * params.batch * params.channel_tiles + column);

        SegmentMarks<Tile, kPacked> marks;
        if constexpr (kPacked) {
            mark_sequences<Tile>(params, tile_time, rows, params.initial_state, params.last_state, shared.marks);
            marks.read(shared.marks, segment);
        }

        // One channel after the other: few values are alive besides the inputs.
        QUICK_SSM_UNROLL
        for (int v = 0; v < kVector; ++v) {
            Carry<Acc> carry = Operator::nothing();
            QUICK_SSM_UNROLL
            for (int s = 0; s < kSteps; ++s) {
                if (marks.starts(s)) {
                    carry = {Operator::kCut, initial_state(params, shared, rows, segment, s, v)};
                }
                const Acc gate = a[s][v];
                carry = {Operator::multiply(carry.gate, gate), gate * carry.state + b[s][v] * x[s][v]};
            }
            shared.segments[segment * Tile::kRow + rows.slot(v)] = {Operator::gate_of(carry.gate), carry.state};
        }
        QUICK_SSM_BARRIER("segments scanned");

        enter(params, shared, rows, tickets.tag(), column, chunk);
        QUICK_SSM_BARRIER("entering state written");
        tickets.draw();
        replay(params, shared, marks, column, chunk, x, a, b, c);
    }

    // Called once the loads of the own tile are under way.
    QUICK_SSM_DEVICE static void prefetch_ahead(const Params& params, uint32_t ticket) {
        if constexpr (kVectorised) {
            const uint32_t columns = params.batch * params.channel_tiles;
            const uint32_t ahead = ticket_to_prefetch(ticket);
            if (ahead >= columns * params.chunks) return;
            const uint32_t column = ahead % columns, chunk = ahead / columns;
            prefetch<Tile>(params, params.a, column, chunk);
            prefetch<Tile>(params, params.x, column, chunk);
            prefetch<Tile>(params, params.b, column, chunk);
            if (params.y) prefetch<Tile>(params, params.c, column, chunk);
        }
    }

    // Runs the segment from the state that really enters it. Addresses are worked out anew: registers are scarce
    // during the look-back.
    QUICK_SSM_DEVICE static void replay(const Params& params, Shared& shared, const SegmentMarks<Tile, kPacked>& marks,
                                        uint32_t column, uint32_t chunk, Segment& x, Segment& a, Segment& b,
                                        Segment& c) {
        forget(column, params.zero), forget(chunk, params.zero);
        const int segment = thread_index() / Tile::kLanes;
        const int64_t time = static_cast<int64_t>(chunk) * Tile::kLength + segment * kSteps;
        const TileRows rows(params, column, time);

        QUICK_SSM_UNROLL
        for (int s = 0; s < kSteps; ++s) {
            a[s].forget(params.zero), b[s].forget(params.zero), x[s].forget(params.zero), c[s].forget(params.zero);
        }
        Acc h[kVector];
        QUICK_SSM_UNROLL
        for (int v = 0; v < kVector; ++v) {
            h[v] = Operator::apply(shared.segments[segment * Tile::kRow + rows.slot(v)], shared.entering[rows.slot(v)]);
        }
        save(params, rows, time, h);
        QUICK_SSM_UNROLL
        for (int s = 0; s < kSteps; ++s) {
            if (marks.starts(s)) {
                QUICK_SSM_UNROLL
                for (int v = 0; v < kVector; ++v) h[v] = initial_state(params, shared, rows, segment, s, v);
            }
            Acc y[kVector];
            QUICK_SSM_UNROLL
            for (int v = 0; v < kVector; ++v) {
                h[v] = a[s][v] * h[v] + b[s][v] * x[s][v];
                y[v] = c[s][v] * h[v];
            }
            if (params.y) rows.store_any(params.y, params.y_dtype, s, y);
            if (params.last_state) {
                if (kPacked ? marks.ends(s) : time + s == params.length - 1) {
                    const int64_t row = kPacked ? shared.marks.last[segment * kSteps + s] - 1 : rows.batch();
                    rows.store_state(params.last_state, row, h);
                }
            }
        }
    }

    // The state that enters the sequence which starts at step `s` of the segment.
    QUICK_SSM_DEVICE static Acc initial_state(const Params& params, Shared& shared, const TileRows& rows, int segment,
                                              int s, int v) {
        const int64_t sequence = static_cast<int64_t>(shared.marks.first[segment * kSteps + s]) - 1;
        return rows.load_state(params.initial_state, sequence, rows.channel(v));
    }

    // Replaces the carry of each segment by that of all segments before it, and finds what enters the tile.
    QUICK_SSM_DEVICE static void enter(const Params& params, Shared& shared, const TileRows& rows, uint32_t tag,
                                       uint32_t column, uint32_t chunk) {
        const int slot = thread_index();
        const TileLookBack look_back(params, shared.look_back, tag, column, chunk);
        Carry<Acc> own = Operator::nothing();
        Acc initial = 0;
        if (slot < Tile::kChannels) {
            QUICK_SSM_UNROLL
            for (int segment = 0; segment < Tile::kSegments; ++segment) {
                Carry<Acc>& entry = shared.segments[segment * Tile::kRow + slot];
                const Carry<Acc> later = entry;
                entry = own;
                own = Operator::combine(own, later);
            }
            // The first step of a packed tensor starts a sequence, which brings its own state.
            if (!kPacked && chunk == 0) {
                initial = rows.load_state(params.initial_state, rows.batch(), rows.slot_channel(slot));
            }
            look_back.publish(slot, own, initial);
        }
        const Acc entering = look_back.entering(own, initial);
        if (slot < Tile::kChannels) shared.entering[slot] = entering;
    }

    QUICK_SSM_DEVICE static void save(const Params& params, const TileRows& rows, int64_t time,
                                      const Acc (&h)[kVector]) {
        const int64_t spacing = int64_t{1} << params.saved_shift;
        if (!params.saved_states || (time & (spacing - 1)) != 0 || time >= params.length) return;
        const int64_t saved_rows = (params.length + spacing - 1) >> params.saved_shift;
        rows.store_state(params.saved_states, rows.batch() * saved_rows + (time >> params.saved_shift), h);
    }
};

}  // namespace QUICK_SSM_NAMESPACE
