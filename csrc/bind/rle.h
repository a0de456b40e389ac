#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "bind/bind.h"
#include "ops/rle.h"

// RLEs as Python has them: dicts of size and counts.
namespace visdeploy::bind {

// An RLE with its counts unread; the text of a compressed one is that of `counts`, which must outlive the view. Raises
// what pycocotools does where it raises: TypeError for another kind of object, KeyError for a missing key.
Encoded view(const py::handle& object, py::object& counts);

// The same of one RLE, or a list of them.
struct Views {
  explicit Views(const py::object& object);

  bool listed;
  std::vector<Encoded> masks;
  std::vector<py::object> kept;  // owns the texts
};

py::dict to_python(const std::string& counts, std::int64_t height, std::int64_t width);
py::list to_python(const std::vector<std::string>& counts, std::int64_t height, std::int64_t width);

}  // namespace visdeploy::bind
