#pragma once

#include <cstdint>
#include <functional>

namespace visdeploy {

// How many threads this process may keep busy: its CPU affinity, cut by the container's cgroup (v1 or v2) quota.
int cpu_quota();

// Calls body(i) for every i in [0, n) on at most num_threads threads; 0 means cpu_quota().
// The first exception is rethrown here, after every thread has stopped.
void parallel_for(std::int64_t n, int num_threads, const std::function<void(std::int64_t)>& body);

}  // namespace visdeploy
