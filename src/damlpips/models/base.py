"""What LPIPS and DAMLPIPS share as modules: options, a place on a device, and the choice of the way they are run."""

from collections.abc import Callable, Hashable
from functools import partial
from typing import Any, Optional

import torch
from jaxtyping import Float
from torch import Tensor, nn

from damlpips.models import alignment, citation, inputs, video
from damlpips.models.definition import Definition
from damlpips.models.encoder import Encoder, Images, Size, resized
from damlpips.models.graphs import Graphed, can_be_recorded
from damlpips.models.inputs import Pair
from damlpips.models.references import Keys, ReferenceCache
from damlpips.models.runners import Chunked, Compiled, InOneOrder, Referenced, Runner, Tiled, Whole
from damlpips.models.settings import Settings
from damlpips.models.tiled import TiledPair
from damlpips.nets.backbone import Backbone
from damlpips.nets.encoded import Encoded
from damlpips.nets.geometry import tiling_of
from damlpips.nets.shared import Source
from damlpips.nets.table import Scaling
from damlpips.ops import distance
from damlpips.ops.execution import deterministic_sums, on_cpu
from damlpips.ops.tiling import Tiling


class PerceptualDistance(nn.Module):
    """A distance of images by their feature maps.

    `inputs` checks what comes in, `encoder` turns images into feature maps, a `Definition` compares them, and `runners`
    say in what portions. A subclass brings its settings and its definition.

    Nothing is registered, neither parameter nor buffer, so there is nothing that a `state_dict` would hold or that DDP
    and FSDP would send around or shard; the backbone follows `.to()`, `.double()` and the like.

    Options are read as attributes (`module.resize`), and fixed: what was made of them stays true.
    """

    options: type[Settings]  # what it takes
    settings: Settings

    # TorchScript passes over all of it, so that a model which only holds this module can be scripted.
    __jit_ignored_attributes__ = ("settings", "source", "tiling", "references", "encoder", "definition")
    __jit_unused_properties__ = ("backbone",)

    def __init__(
        self,
        source: Source,
        settings: Settings,
        *,
        scaling: Scaling | None = None,
        viewing_side: int | None = None,
        image_reach: int = 0,
    ) -> None:
        super().__init__()
        self.source = source
        self.tiling = (
            None
            if settings.tile is None
            else tiling_of(source.backbone, settings.tile, least=source.min_size, reach=image_reach)
        )
        self.references = ReferenceCache(settings.reference_cache)
        # Empty, and only there to be moved: its device and dtype say where the shared backbone has to be. Not a buffer:
        # DDP would broadcast it before every step. Not of torch's defaults: a score does not depend on them.
        self.anchor = torch.empty(0, dtype=torch.float32, device="cpu")
        self.encoder = Encoder(
            source,
            settings,
            scaling=scaling,
            viewing_side=viewing_side,
            device=self.anchor.device,
            dtype=self.anchor.dtype,
        )
        self._compiled: Compiled | None = None
        self._graphed: Graphed | None = None
        self.settings = settings
        self.definition = self._defined()
        if source.is_here:
            self.load()

    def _defined(self) -> Definition:
        """Return how feature maps are compared, with everything that takes on the module's device."""
        raise NotImplementedError

    def __getattr__(self, name: str) -> Any:
        settings = self.__dict__.get("settings")
        return getattr(settings, name) if settings and name in settings.names() else super().__getattr__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        settings = self.__dict__.get("settings")
        if settings is not None and name in ("settings", *settings.names()):
            raise AttributeError(
                f"{name}: options are fixed once a {settings.metric} is made, since its scores, its digest and what is"
                f" cached depend on them: make another one with {name}={value!r}"
            )
        super().__setattr__(name, value)

    # --- where it is -------------------------------------------------------------------------------------------------

    @property
    def backbone(self) -> Backbone:
        """The shared backbone on this module's device; loaded, or downloaded, when first used."""
        return self.encoder.backbone

    def load(self) -> "PerceptualDistance":
        """Load the backbone now, downloading it if need be, instead of when the first score is asked for."""
        _ = self.backbone
        return self

    def _apply(self, fn: Any, recurse: bool = True) -> "PerceptualDistance":
        super()._apply(fn, recurse)
        before, self.anchor = self.anchor, fn(self.anchor)
        if (before.device, before.dtype) != (self.anchor.device, self.anchor.dtype):
            self.references = ReferenceCache(self.references.limit)
            self.encoder = self.encoder.on(self.anchor.device, self.anchor.dtype)
            self.definition = self._defined()
            self._compiled = self._graphed = None
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_compiled": None, "_graphed": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if self.source.is_here:
            self.load()

    # --- what it is asked for ----------------------------------------------------------------------------------------

    # of plain types, which TorchScript reads: what `encode` returned stands in for either tensor
    def forward(self, x: Tensor, y: Tensor, reference_key: Any = None, mask: Optional[Tensor] = None) -> Tensor:  # noqa: UP045
        """Return the distance of each pair, (N,), or its mean or sum as `reduction` says; lower is closer.

        `reference_key` names the images of y, one key each: see `compare`. `mask` says which places count: see
        `per_layer`.
        """
        if torch.jit.is_scripting():  # type: ignore[attr-defined]
            raise RuntimeError(
                "damlpips: LPIPS and DAMLPIPS cannot be scripted: use torch.export.export or torch.jit.trace"
            )
        return self._scores(x, y, reference_key, mask)

    @torch.jit.unused
    def _scores(self, x: Images, y: Images, reference_key: Keys | None, mask: Tensor | None) -> Tensor:
        if torch.jit.is_tracing() and torch.onnx.is_in_onnx_export():  # type: ignore[attr-defined]
            raise RuntimeError(
                f"{self.settings.metric} cannot be exported to ONNX by way of TorchScript: use dynamo=True, the default"
                " from torch 2.9 on"
            )
        scores = self.per_layer(x, y, reference_key=reference_key, mask=mask).sum(1)
        return distance.reduce(scores, self.settings.reduction)

    def per_layer(
        self, x: Images, y: Images, *, reference_key: Keys | None = None, mask: Tensor | None = None
    ) -> Float[Tensor, "n l"]:
        """Return what each layer adds to the score of each pair: (N, L), from fine to coarse; rows sum to scores.

        Args:
            x, y: images, or what `encode` returned.
            reference_key: see `compare`.
            mask: bool, (N, 1, H, W), or (1, 1, H, W) for all pairs: only where it is True is compared. What is outside
                changes nothing, whatever it is: both images are continued smoothly from what is inside, and each layer
                is averaged over the places that the mask covers, by how much it does. Of videos (N, T, 1, H, W), where
                N and T may be 1.

        Raises:
            TypeError, ValueError: see `damlpips.checks`; a mask beside what `encode` returned, keys or tiles; one that
                covers nothing of an image (on an accelerator, whose values are not read, the score is NaN).
        """
        return self.compared(self.prepared(x, y, mask), reference_key)

    def spatial_map(self, x: Images, y: Images, *, mask: Tensor | None = None) -> Float[Tensor, "n 1 h w"]:
        """Return where the images of each pair differ: (N, 1, H, W), 0 where a `mask` is False; see `per_layer`."""
        return self.prepared(x, y, mask).compared(self._spatial_map)

    def encode(self, x: Tensor) -> Encoded:
        """Run images through the backbone once; the result stands in for them in either place of later calls.

        The result of one image is compared with each image of a batch. It holds whole feature maps, also with `tile`,
        and is compared whole.

        With gradients enabled it carries the graph; call `.detach()` on it, or encode under `torch.no_grad()`, to keep
        a fixed reference.
        """
        images, size = inputs.alone(x, self.settings, self.encoder)
        # copied: what is kept must not change when the caller's tensor does
        return self.encode_checked(images.clone(), size)

    def encode_checked(self, images: Tensor, size: Size) -> Encoded:
        """Do what `encode` does with images that `inputs.alone` has checked; they are not copied."""
        return self._to_keep(self.encoder(images, size))

    def _to_keep(self, encoded: Encoded) -> Encoded:
        if not self.settings.deterministic:
            return self.definition.to_keep(encoded)
        with deterministic_sums(self.encoder.device):
            return self.definition.to_keep(encoded)

    def compare(self, x: Images, y: Images, *, reference_key: Keys | None = None) -> tuple[Encoded, Encoded]:
        """Check a pair of batches and return both encoded, in one pass through the backbone where that is cheaper.

        Args:
            x, y: (N, 3, H, W), or what `encode` returned; of one image it stands in for N.
            reference_key: a key for each image of y, `str`, `int` or another hashable, or whole numbers (N,). An image
                whose key came before is not run through the backbone again; see `damlpips.models.references`.

        Raises:
            TypeError, ValueError: see `damlpips.checks`; the message says what came and what was expected.
        """
        return self.encoded(inputs.prepared(x, y, self.settings, self.encoder), reference_key)

    def clear_references(self) -> None:
        """Forget the references that came with a key."""
        self.references.clear()

    # --- how it is run -----------------------------------------------------------------------------------------------

    def prepared(self, x: Images, y: Images, mask: Tensor | None = None) -> Pair | video.VideoPair:
        """Check a pair of batches, once; `compared` takes what comes of it."""
        prepare: Callable[..., Pair | video.VideoPair] = video.prepared if self.settings.video else inputs.prepared
        return prepare(x, y, self.settings, self.encoder, mask)

    def checked(self, x: Images, y: Images) -> tuple[Images, Images]:
        """Check a pair of batches and return both as they are compared, with three channels and in one size."""
        pair = inputs.prepared(x, y, self.settings, self.encoder)
        x, y = (v if isinstance(v, Encoded) else resized(v, pair.size) for v in (pair.x, pair.y))
        return x, y

    def compared(self, pair: Pair | video.VideoPair, reference_key: Keys | None = None) -> Float[Tensor, "n l"]:
        """Return what each layer adds to the score of each pair."""
        return pair.compared(self._layers, reference_key, mean=True)

    def encoded(self, pair: Pair, reference_key: Keys | None = None) -> tuple[Encoded, Encoded]:
        """Return the feature maps of both batches."""
        if reference_key is None:
            return self.encoder.pair(pair.x, pair.y, pair.size)
        return self._referenced().encoded(self._named(pair, reference_key))

    def _layers(self, pair: Pair, keys: Keys | None = None) -> Float[Tensor, "n l"]:
        if keys is not None and pair.mask is not None:
            raise ValueError(
                "mask: expected no reference_key beside it, since the feature maps that are kept under a key are of"
                " whole images: leave one of them out"
            )
        if keys is not None and not self.is_tiled(pair):
            pair = self._named(pair, keys)
        return self._runner(pair)(pair)

    def _spatial_map(self, pair: Pair, _keys: None = None) -> Float[Tensor, "n 1 h w"]:
        if (tiling := self._tiling_of(pair)) is not None:
            return self._by_tiles(tiling, partial(self.definition.spatial_map_of_tiles, size=pair.size))(pair)
        if self.definition.aligns or pair.mask is not None:
            x, y, motion, mask = self._aligned(pair)
            return self.definition.spatial_map(x, y, pair.size, motion, mask)
        return Whole(self.encoder, lambda x, y: self.definition.spatial_map(x, y, pair.size))(pair)

    def _runner(self, pair: Pair) -> Runner:
        """Return the way in which a pair is compared: the one place where ways are composed."""
        if (tiling := self._tiling_of(pair)) is not None:
            return self._by_tiles(tiling, self.definition.layers_of_tiles)
        run: Runner
        if pair.mask is not None:
            run = self._layers_aligned
        elif self._is_compiled(pair) and not pair.names:
            self._compiled = self._compiled or Compiled(self.encoder, self._layers_of_seen)
            run = self._compiled
        elif self.definition.aligns:
            run = self._layers_aligned
        elif pair.names:
            run = self._referenced()
        else:
            run = Whole(self.encoder, self.definition.layers)
        if self.settings.deterministic:
            return InOneOrder(Chunked(run, 1), self.encoder.device)
        if self.settings.cuda_graphs and not pair.names and pair.mask is None and can_be_recorded(pair):
            self._graphed = self._graphed or Graphed(run)
            return self._graphed
        return Chunked(run, self.encoder.pass_count(pair.size)) if _is_split(pair) else run

    def _aligned(self, pair: Pair) -> alignment.Aligned:
        """Return the feature maps of both batches as they are compared, what moved, and which places count."""
        if pair.mask is not None:
            return alignment.masked(self.encoder, pair, aligns=self.definition.aligns)
        if not self.definition.aligns:
            return alignment.Aligned(*self.encoded(pair), None)
        still = self._referenced().encoded if pair.names else lambda p: self.encoder.pair(p.x, p.y, p.size)
        return alignment.encoded(self.encoder, pair, still)

    def _layers_aligned(self, pair: Pair) -> Float[Tensor, "n l"]:
        return self.definition.layers(*self._aligned(pair))

    def _layers_of_seen(self, x: Tensor, y: Tensor) -> Float[Tensor, "n l"]:
        size = x.shape[2], x.shape[3]
        if self.definition.aligns:
            return self.definition.layers(*alignment.of_seen(self.encoder, x, y, size))
        return self.definition.layers(*self.encoder.pair_of_seen(x, y, size))

    def _by_tiles(self, tiling: Tiling, compare: Callable[[TiledPair], Tensor]) -> Runner:
        run = Chunked(Tiled(self.encoder, self.definition, compare, tiling), 1)
        return InOneOrder(run, self.encoder.device) if self.settings.deterministic else run

    def _referenced(self) -> Referenced:
        return Referenced(self.encoder, self.definition.layers, self.references, self._to_keep)

    def _named(self, pair: Pair, keys: Keys) -> Pair:
        conditions = (*self.encoder.conditions(), self.encoder.viewing_side)
        return Pair(pair.x, pair.y, pair.size, self.references.named(keys, pair.y, conditions))

    def _is_compiled(self, pair: Pair) -> bool:
        by_itself = self.settings.compile and not self.settings.deterministic and not torch.compiler.is_compiling()
        return by_itself and pair.is_images

    def is_tiled(self, pair: Pair) -> bool:
        """Return whether a pair is compared tile by tile."""
        return self._tiling_of(pair) is not None

    def _tiling_of(self, pair: Pair) -> Tiling | None:
        """Return how a pair is cut, None where it is compared whole."""
        if self.tiling is None or not pair.is_images or self.tiling.fits(self.encoder.seen_size(pair.size)):
            return None
        if pair.mask is not None:
            height, width = self.encoder.seen_size(pair.size)
            raise ValueError(
                f"mask: expected images that are compared whole, got {height} x {width} pixels with"
                f" tile={self.settings.tile}: compare crops, or use tile=None"
            )
        return self.tiling

    def sharing_key(self, size: Size, *, keyed: bool = False) -> Hashable:
        """Return what two modules must agree in for the feature maps of one to serve the other.

        Args:
            size: height and width at which pairs are compared.
            keyed: whether the feature maps of references are kept under keys.
        """
        return *self.encoder.conditions(), self.encoder.seen_size(size)

    # --- what it is --------------------------------------------------------------------------------------------------

    def configuration(self) -> dict[str, Any]:
        """Return everything that a score depends on, by name."""
        return {"metric": self.settings.metric, "backbone": self.source.identity(), **self.settings.scored()}

    def describe(self) -> str:
        """Return one line to cite: the metric, its network and weights, and every option without its default.

        `damlpips.from_description` makes a module of it again, and so does `damlpips score --as`.
        """
        return citation.describe(self.settings, self.source)

    def extra_repr(self) -> str:
        options = {"backbone": self.source.name, **self.settings.scored(), **self.settings.changed()}
        return ", ".join(f"{name}={value!r}" for name, value in options.items())


def _is_split(pair: Pair) -> bool:
    """Return whether a batch goes through part by part: on a CPU, where no graph needs the whole's feature maps."""
    return pair.is_images and on_cpu(pair.given[0]) and not pair.is_optimised
