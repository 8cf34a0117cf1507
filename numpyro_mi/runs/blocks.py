"""Blocks of joint draws: how many one compiled program takes."""

LANES = 1024  # chains of a block: more raise no rate on a CPU, and blocks are where a run can be stopped


def block_size(num_samples: int, num_particles: int, lanes: int = LANES) -> int:
    """Some twenty blocks, each of 256 to 1,024 chains (if that is the most, `lanes`), as equal as can be."""
    most, least = max(1, lanes // (num_particles + 1)), max(1, lanes // 4 // (num_particles + 1))
    size = min(max(num_samples // 20, least), most, num_samples)
    return -(-num_samples // -(-num_samples // size))
