"""Mask propagation with a gated update."""

import torch
from torch import Tensor
from torch_geometric.typing import OptTensor

from stg_pyg.nn.made import keeps_arguments
from stg_pyg.nn.spatial.mask_propagation import MaskPropagation

_SHARPNESS = 8.0


@keeps_arguments
class GRUPropagation(torch.nn.Module):
    r"""Mask propagation whose update is a convolutional gated recurrent unit, as in the `"Video Object Segmentation
    with Episodic Graph Memory Networks" <https://arxiv.org/abs/2007.07020>`_ paper.

    .. math::
        \mathbf{m}^v &= \frac{\mathbf{h}^v + \sum_u W_{vu} \mathbf{h}^u}{1 + \sum_u W_{vu}}

        \mathbf{z}^v, \mathbf{r}^v &= \sigma(\mathrm{conv}_g([\mathbf{h}^v, \mathbf{m}^v]))

        \tilde{\mathbf{h}}^v &= \sigma(\mathrm{conv}_c([\mathbf{r}^v \odot \mathbf{h}^v, \mathbf{m}^v]))

        (\mathbf{h}^v)^{\prime} &= (1 - \mathbf{z}^v) \odot \mathbf{h}^v + \mathbf{z}^v \odot \tilde{\mathbf{h}}^v

    The message :math:`\mathbf{m}` is the update of Eq. 5 of STG-Net; the candidate is a mask in :math:`[0, 1]`, so
    :math:`\sigma` stands in for the usual tanh. Untrained, half of each pixel is replaced by a soft threshold of the
    message. The steps share their weights. In that paper the states are feature maps of frames and the edge weights
    are attention between them; here they are masks of proposals and :obj:`edge_weight`.

    Args:
        num_steps (int): The number of steps. (default: :obj:`2`)
        kernel_size (int): The side of the convolutions, odd. (default: :obj:`3`)
        backend (str): How messages are computed, see :class:`MaskPropagation`. (default: :obj:`"auto"`)

    Shapes:
        - **input:** node masks :math:`(|\mathcal{V}|, *, H, W)`, edge indices :math:`(2, |\mathcal{E}|)`,
          edge weights :math:`(|\mathcal{E}|)` *(optional)*, batch vector :math:`(|\mathcal{V}|)`, sorted *(optional)*
        - **output:** node masks :math:`(|\mathcal{V}|, *, H, W)`
    """

    def __init__(self, num_steps: int = 2, kernel_size: int = 3, backend: str = "auto"):
        super().__init__()
        if num_steps < 0 or kernel_size % 2 != 1:
            raise ValueError(f"'num_steps' must be >= 0 and 'kernel_size' odd (got {num_steps}, {kernel_size})")
        self.num_steps = num_steps
        self.message = MaskPropagation(1, backend)
        self.gates = torch.nn.Conv2d(2, 2, kernel_size, padding=kernel_size // 2)
        self.candidate = torch.nn.Conv2d(2, 1, kernel_size, padding=kernel_size // 2)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        r"""Resets to open gates of 0.5 and the soft threshold."""
        for conv, bias in ((self.gates, 0.0), (self.candidate, -_SHARPNESS / 2)):
            torch.nn.init.zeros_(conv.weight)
            assert conv.bias is not None
            torch.nn.init.constant_(conv.bias, bias)
        middle = self.candidate.kernel_size[0] // 2
        with torch.no_grad():
            self.candidate.weight[0, 1, middle, middle] = _SHARPNESS

    def forward(
        self,
        x: Tensor,
        edge_index: Tensor,
        edge_weight: OptTensor = None,
        batch: OptTensor = None,
        edge_attr: OptTensor = None,
    ) -> Tensor:
        r"""Runs the steps on floating point masks.

        Raises:
            ValueError: :obj:`x` is no stack of frames.
        """
        if x.dim() < 3:
            raise ValueError(f"'x' must be [N, *, H, W] (got {list(x.shape)}): the update is a convolution")
        dtype = self.gates.weight.dtype
        h = x
        for _ in range(self.num_steps):
            m = self.message(h, edge_index, edge_weight, batch)
            state, message = (t.reshape(-1, 1, *x.shape[-2:]).to(dtype) for t in (h, m))
            update, reset = self.gates(torch.cat([state, message], dim=1)).sigmoid().split(1, dim=1)
            candidate = self.candidate(torch.cat([reset * state, message], dim=1)).sigmoid()
            h = torch.lerp(state, candidate, update).to(x.dtype).view(x.shape)
        return h

    def __repr__(self) -> str:
        size, backend = self.gates.kernel_size[0], self.message.backend
        return f"{self.__class__.__name__}(num_steps={self.num_steps}, kernel_size={size}, backend='{backend}')"
