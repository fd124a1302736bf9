#include <CLI/CLI.hpp>
#include <iostream>
#include <memory>

#include "train/import_pt.h"
#include "train_commands.h"

namespace cortex {

void add_import(CLI::App& app) {
  struct Flags {
    std::string pt, config, out;
    bool json = false;
  };
  auto* command = app.add_subcommand("import", "Convert a published .pt state dict to safetensors");
  auto flags = std::make_shared<Flags>();
  command->add_option("--pt", flags->pt, "File that torch.save wrote")->required();
  command->add_option("--config", flags->config, "Its config.json (default: beside the .pt)");
  command->add_option("--out", flags->out, "Model file to write")->required();
  command->add_flag("--json", flags->json, "One JSON object on standard output at the end");
  command->footer("Example:\n  cortex-train import --pt best.pt --out model.safetensors");
  command->callback([flags] {
    const auto report = train::import_pt(flags->pt, flags->config, flags->out).value_or_throw();
    for (const std::string& name : report.ignored)
      std::cerr << "cortex-train: '" << name << "' is no weight and was left out\n";
    if (!flags->json) {
      std::cout << report.model << ": " << report.parameters << " parameters\n";
      return;
    }
    JsonWriter w;
    w.begin_object().key("model").value(report.model).key("parameters").value(report.parameters);
    std::cout << w.end_object().text() << "\n";
  });
}

}  // namespace cortex
