// Hands out tiles in order, the first one to begin with, and leaves the workspace ready for the next launch.
#pragma once

#include "params.cuh"

namespace QUICK_SSM_NAMESPACE {

class Tickets {
public:
    struct Shared {
        uint32_t ticket;
        uint32_t tag;
    };

    QUICK_SSM_DEVICE Tickets(const Params& params, Shared& shared)
        : header_(static_cast<WorkspaceHeader*>(params.workspace)), shared_(shared) {
        draw();
        announce();
        if (thread_index() == 0) shared_.tag = next_epoch(load_value(&header_->epoch));
        QUICK_SSM_BARRIER("ticket drawn");
        tag_ = shared_.tag;
    }

    // The next tile is loaded while this one is computed, but it is published only after it. So a block draws when it
    // sets about to publish its tile, and not before: were two tiles drawn together, each block would wait for the one
    // that has drawn just before it. What was drawn stays in a register until it is needed, so that nobody waits for it.
    QUICK_SSM_DEVICE void draw() {
        if (thread_index() == 0) drawn_ = atomic_increment(&header_->ticket);
    }
    // Tells all threads, behind the next barrier, what was drawn.
    QUICK_SSM_DEVICE void announce() const {
        if (thread_index() == 0) shared_.ticket = drawn_;
    }
    QUICK_SSM_DEVICE uint32_t next() const { return shared_.ticket; }
    // Marks the packets of this launch: those of earlier launches stay where they are. Fresh memory has tag 0.
    QUICK_SSM_DEVICE uint32_t tag() const { return tag_; }

    QUICK_SSM_DEVICE void finish() {
        if (thread_index() != 0) return;
        if (atomic_increment(&header_->finished) == grid_blocks() - 1) {
            store_value(&header_->ticket, 0u);
            store_value(&header_->finished, 0u);
            store_value(&header_->epoch, tag_);
        }
    }

private:
    QUICK_SSM_DEVICE static uint32_t next_epoch(uint32_t epoch) { return epoch + 1 ? epoch + 1 : 1; }

    WorkspaceHeader* header_;
    Shared& shared_;
    uint32_t drawn_ = 0;  // of the first thread
    uint32_t tag_;
};

}  // namespace QUICK_SSM_NAMESPACE
