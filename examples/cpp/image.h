#pragma once

#include <cstdint>
#include <string>
#include <vector>

struct Image {
  std::string path;
  std::int64_t height = 0, width = 0;
  std::vector<std::uint8_t> rgb;  // row by row
};

// Reads a PPM (P6) of 8 bits, or with OpenCV whatever that reads. Throws std::runtime_error.
Image read_image(const std::string& path);
