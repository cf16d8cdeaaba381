"""Options that users give to backends, validated."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from backends.base import MeasureOptions

_DEFAULTS = MeasureOptions()


class BackendSettings(BaseModel):
    """Options that every backend that times kernels has; see `MeasureOptions` for the units."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    repeats: int = Field(default=_DEFAULTS.repeats, ge=1, le=1000)
    min_repeat_ms: float = Field(default=_DEFAULTS.min_repeat_ms, gt=0, le=10_000)
    build_timeout_s: float = Field(default=_DEFAULTS.build_timeout_s, gt=0)
    run_timeout_s: float = Field(default=_DEFAULTS.run_timeout_s, gt=0)
    rtol: float = Field(default=_DEFAULTS.rtol, ge=0)
    atol: float = Field(default=_DEFAULTS.atol, ge=0)

    @property
    def measure_options(self) -> MeasureOptions:
        return MeasureOptions(
            repeats=self.repeats,
            min_repeat_ms=self.min_repeat_ms,
            build_timeout_s=self.build_timeout_s,
            run_timeout_s=self.run_timeout_s,
            rtol=self.rtol,
            atol=self.atol,
        )
