#include "core/parallel.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <exception>
#include <fstream>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace visdeploy {
namespace {

constexpr double kUnlimited = 1e9;

double read_number(const std::string& path) {
  double value = 0;
  std::ifstream(path) >> value;
  return value;
}

// "max 100000" fails to parse as a number, which leaves both values zero: no limit.
double v2_limit(const std::string& folder) {
  double quota = 0, period = 0;
  std::ifstream(folder + "/cpu.max") >> quota >> period;
  return quota > 0 && period > 0 ? quota / period : kUnlimited;
}

double v1_limit(const std::string& folder) {
  const double quota = read_number(folder + "/cpu.cfs_quota_us");
  const double period = read_number(folder + "/cpu.cfs_period_us");
  return quota > 0 && period > 0 ? quota / period : kUnlimited;
}

// A quota binds every group below it, so the limit is the least on the way from this process up to the root.
double cgroup_limit() {
  double limit = kUnlimited;
  std::ifstream groups("/proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {
    const auto first = line.find(':'), second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
    const bool v2 = controllers == ",,";
    if (!v2 && controllers.find(",cpu,") == std::string::npos) continue;
    std::string path = line.substr(second + 1);
    for (;; path.resize(path.rfind('/'))) {
      if (path == "/") path.clear();
      limit = std::min(limit, v2 ? v2_limit("/sys/fs/cgroup" + path) : v1_limit("/sys/fs/cgroup/cpu" + path));
      if (path.empty() || path.rfind('/') == std::string::npos) break;
    }
  }
  return limit;
}

double affinity() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) == 0) return CPU_COUNT(&set);
  return std::max(1u, std::thread::hardware_concurrency());
}

}  // namespace

int cpu_quota() {
  static const double limit = cgroup_limit();
  return static_cast<int>(std::max(1.0, std::min(affinity(), std::ceil(limit))));
}

int choose_threads(int num_threads, double work) {
  constexpr double kWorthwhile = 200e3;
  if (num_threads > 0) return num_threads;
  return work < kWorthwhile ? 1 : cpu_quota();
}

void parallel_for(std::int64_t n, int num_threads, const std::function<void(std::int64_t)>& body) {
  std::atomic<std::int64_t> next{0};
  std::exception_ptr failure;
  std::mutex failure_mutex;
  const auto work = [&] {
    try {
      for (std::int64_t i; (i = next++) < n;) body(i);
    } catch (...) {
      next = n;
      const std::lock_guard<std::mutex> lock(failure_mutex);
      if (!failure) failure = std::current_exception();
    }
  };
  constexpr std::int64_t kMostThreads = 256;
  const std::int64_t wanted = std::min({n, std::int64_t{num_threads}, kMostThreads});
  std::vector<std::thread> threads;
  threads.reserve(kMostThreads);
  try {
    while (static_cast<std::int64_t>(threads.size()) + 1 < wanted) threads.emplace_back(work);
  } catch (...) {
    // The machine has no more threads, or no memory for them; those that started, and this one, do all the work.
  }
  work();
  for (auto& thread : threads) thread.join();
  if (failure) std::rethrow_exception(failure);
}

}  // namespace visdeploy
