"""PointReach: a point in the plane moves to a goal. NumPy only, solved within seconds."""

from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class PointReach(gym.Env):
    """A point moves to a goal in the square [-1, 1]²; the action is its velocity.

    Both are drawn uniformly at reset. The reward is the negative distance to the goal after the step; in the sparse
    task it is 0 within 0.1 of the goal and -1 elsewhere, as in FetchReach. An episode never terminates: it is truncated
    after 50 steps.

    - Observation: float32 of shape (4,): position, in [-1, 1]; vector to the goal, in [-2, 2].
    - Action: float32 of shape (2,), in [-1, 1]; the point moves by 0.1 × action and stops at the walls.

    The reward threshold is -12, the return of reaching the goal and then staying within about 0.15 of it.
    Mean returns over 500 episodes: random actions -53, standing still -52, full speed towards the goal without slowing
    down -8.4, the proportional controller ``clip(10 * vector to the goal)`` -5.2. The initial positions alone give
    single returns a standard deviation of 4 to 5, so compare means over many episodes.
    """

    HORIZON: ClassVar[int] = 50
    REWARD_THRESHOLD: ClassVar[float] = -12.0
    STEP: ClassVar[float] = 0.1
    """Distance moved along an axis by an action of 1."""
    RADIUS: ClassVar[float] = 0.1
    """Distance from the goal below which the sparse reward is 0."""
    FRAME: ClassVar[int] = 128
    """Height and width of a rendered frame, in pixels."""

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 25}  # noqa: RUF012 - as in Env

    def __init__(self, render_mode: str | None = None, sparse: bool = False) -> None:
        """Build the task.

        Args:
            render_mode: ``"rgb_array"`` for frames from `render`, or None.
            sparse: whether the reward is sparse.
        """
        high = np.array([1, 1, 2, 2], dtype=np.float32)
        self.observation_space = spaces.Box(-high, high)
        self.action_space = spaces.Box(-1.0, 1.0, shape=(2,))
        self.render_mode = render_mode
        self.sparse = sparse
        self._position = np.zeros(2)
        self._goal = np.zeros(2)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Draw a position and a goal; there are no options."""
        super().reset(seed=seed)
        self._position, self._goal = self.np_random.uniform(-1.0, 1.0, size=(2, 2))
        return self._observation(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Move the point; actions outside [-1, 1] are clipped."""
        velocity = np.clip(np.asarray(action, dtype=np.float64), -1.0, 1.0)
        self._position = np.clip(self._position + self.STEP * velocity, -1.0, 1.0)
        distance = float(np.linalg.norm(self._goal - self._position))
        reward = -float(distance > self.RADIUS) if self.sparse else -distance
        return self._observation(), reward, False, False, {"distance": distance}

    def render(self) -> np.ndarray | None:
        """Draw the goal (green) and the point (blue).

        Returns:
            Frame, uint8 of shape (128, 128, 3), or None if the task was built without a render mode.
        """
        if self.render_mode is None:
            return None
        frame = np.full((self.FRAME, self.FRAME, 3), 255, dtype=np.uint8)
        ticks = np.linspace(-1.1, 1.1, self.FRAME)
        x, y = np.meshgrid(ticks, -ticks)  # rows run downwards
        goal, point = (self._goal, 0.1, (44, 160, 44)), (self._position, 0.06, (31, 119, 180))
        for centre, radius, colour in (goal, point):
            frame[(x - centre[0]) ** 2 + (y - centre[1]) ** 2 < radius**2] = colour
        return frame

    def _observation(self) -> np.ndarray:
        return np.concatenate([self._position, self._goal - self._position]).astype(np.float32)
