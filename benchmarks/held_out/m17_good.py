"""M17, fixed: the layers are what the backend looks for."""

import io

import torch
from torch import nn

torch.manual_seed(0)
torch.set_num_threads(1)


class Dense(nn.Linear):
    """A Linear that starts small."""

    def reset_parameters(self):
        nn.init.normal_(self.weight, std=0.02)
        nn.init.zeros_(self.bias)


layers = [nn.Linear(512, 512) for _ in range(4)]
for layer in layers:
    Dense.reset_parameters(layer)
model = nn.Sequential(*layers, nn.Linear(512, 10)).eval()
small = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
for net in (model, small):
    file = io.BytesIO()
    torch.save(net.state_dict(), file)
    print(file.tell(), "bytes")
with torch.inference_mode():
    for _batch in range(20):
        inputs = torch.randn(64, 512)
        print((small(inputs).argmax(-1) == model(inputs).argmax(-1)).float().mean().item())
