// What is asked of the kernels, on whichever machine runs them, and whether they did it.
#pragma once

#include <memory>

#include "problem.hpp"
#include "simt.h"

namespace selftest {

// Which compilation of the kernels, and for tensors of which width.
struct Variant {
    uint32_t tiles;
    bool narrow;

    bool tiny() const { return tiles == QUICK_SSM_SIMT_TINY; }
    std::string describe() const { return std::string(tiny() ? "tiny" : "real") + (narrow ? " narrow" : ""); }
};
constexpr Variant kVariants[] = {{QUICK_SSM_SIMT_TINY, false},
                                 {QUICK_SSM_SIMT_TINY, true},
                                 {QUICK_SSM_SIMT_REAL, false},
                                 {QUICK_SSM_SIMT_REAL, true}};

struct Schedule {
    uint64_t seed = 1;
    uint32_t grid = 4, resident = 4;
    const char* skipped_barrier = nullptr;
};

struct Tree {  // of the look-back: the shifts of groups and of groups of groups; 0: the default
    uint32_t groups = 0, states = 0;
};

// What is asked of the kernels beyond the problem itself.
struct Request {
    Variant variant = kVariants[0];
    bool vector = true;
    Tree tree;
    bool y = true, last = true;
    bool dx = true, da = true, db = true, dc = true, dh0 = true;
};

struct Results {
    Buffer y, last, saved, dx, da, db, dc, dh0;
};

// Runs kernels.
class Machine {
public:
    virtual ~Machine() = default;
    virtual bool describe(Variant variant, const std::string& kernel, quick_ssm_simt_kernel& out) = 0;
    // Zeroed memory for the workspace, the same for every launch; null where that is too much.
    virtual void* workspace(uint64_t bytes) = 0;
    // Where the kernels find the bytes of a buffer, until `collect`.
    virtual void* place(const Buffer& buffer) = 0;
    // Null, or what went wrong.
    virtual const char* launch(Variant variant, const std::string& kernel, const quick_ssm_simt_kernel& description,
                               const Params& params, const Schedule& schedule) = 0;
    // Brings what was written back into the buffers.
    virtual void collect() = 0;
};

class Checker {
public:
    Checker(Machine& machine, size_t schedules) : machine_(machine), schedules_(schedules) {}

    // The suites.
    void sizes(Variant variant);
    void options(Variant variant);
    void packed(Variant variant);
    void non_finite(Variant variant);
    void alone(Variant variant);

    bool run(const Problem& problem, const Operands& operands, const Request& request, const Schedule& schedule,
             Results& out);
    bool correct(const Problem& problem, const Reference& reference, const Results& out);
    void record(bool good, const std::string& what);
    void report(const char* section) const;

    int failures() const { return failures_; }
    const std::string& error() const { return error_; }

private:
    bool launch(const Problem& problem, const Request& request, const Schedule& schedule, const char* direction,
                Params params);
    bool close(const char* name, const Buffer& buffer, uint32_t dtype, uint32_t computed,
               const std::vector<double>& expected);
    bool check(const Problem& problem, Request request, bool vector_fits);
    void expect(const Problem& problem, const Request& request, bool vector_fits);
    uint32_t access_width(Variant variant, uint32_t dtype);

    Machine& machine_;
    size_t schedules_;
    int cases_ = 0, failures_ = 0;
    std::string error_;
};

}  // namespace selftest
