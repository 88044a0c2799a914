"""Networks of sound: what grouped convolution over time has been published for, each a file.

>>> from regroup.networks.sound import QuartzNet
>>> QuartzNet(labels=28).eval()(torch.randn(2, 64, 100)).shape
torch.Size([2, 29, 50])

They are modules of PyTorch that take (N, channels, steps), of any length: `regroup.replace`, `profile`,
`accelerate` and `compile` work on them as on networks of images.
"""

from regroup.networks.sound.conformer import ConformerConvolution as ConformerConvolution
from regroup.networks.sound.conv_tasnet import ConvTasNet as ConvTasNet
from regroup.networks.sound.quartznet import QuartzNet as QuartzNet
