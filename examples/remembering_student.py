"""Memory: a student that does not observe velocities infers them from past observations."""

import gymnasium as gym
import numpy as np

from policykd import TeacherStudent


def teacher(observation: np.ndarray) -> np.ndarray:
    """Swing the pendulum up by energy shaping and hold it there, which needs angle and velocity."""
    cosine, sine, velocity = np.moveaxis(observation, -1, 0)
    angle, energy = np.arctan2(sine, cosine), velocity**2 / 2 + 15 * (cosine - 1)
    swing = -0.4 * energy * np.sign(velocity + 1e-3)
    hold = -(15 * angle + 3 * velocity)
    return np.clip(np.where(np.abs(angle) < 0.6, hold, swing), -2, 2)[..., None]


def main(steps: int = 12_000) -> dict[str, float]:
    config = {"student_observations": (0, 1), "observation_groups": {"angle": (0, 1)}, "eval_freq": 0}
    config |= {"round_steps": 500, "round_updates": 500, "net_arch": (64, 64)}
    returns = {}
    for name, memory in {"no memory": {}, "history of 4": {"history": 4}}.items():
        student = TeacherStudent("Pendulum-v1", teacher, config={**config, **memory}).learn(steps)
        returns[name] = float(student.evaluate(20, seed=1).returns.mean())
        print(f"{name}: {returns[name]:.0f} (teacher {student.score_teacher().mean:.0f})")
    play(student)
    return returns


def play(student: TeacherStudent) -> None:
    """Play five steps: the state is passed from call to call, and reset where an episode starts."""
    env = gym.make("Pendulum-v1")
    observation, _ = env.reset(seed=0)
    state, start = None, np.ones(1, bool)
    for _ in range(5):
        actions, state = student.predict(observation[None], state, start)
        observation, start = env.step(actions[0])[0], np.zeros(1, bool)


if __name__ == "__main__":
    main()
