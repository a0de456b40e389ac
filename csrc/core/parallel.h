#pragma once

#include <cstdint>
#include <functional>

namespace visdeploy {

// How many threads this process may keep busy: its CPU affinity, cut by the container's cgroup (v1 or v2) quota.
int cpu_quota();

// How many threads an op may start that was asked for num_threads, 0 meaning that the choice is its own: one for work
// that ends sooner than threads start, else cpu_quota(). `work` is in nanoseconds of one thread, roughly.
int choose_threads(int num_threads, double work);

// Calls body(i) for every i in [0, n) on at most num_threads threads.
// The first exception is rethrown here, after every thread has stopped.
void parallel_for(std::int64_t n, int num_threads, const std::function<void(std::int64_t)>& body);

}  // namespace visdeploy
