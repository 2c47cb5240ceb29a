"""What every room uses: errors, atomic files, settings, progress, secrets."""
