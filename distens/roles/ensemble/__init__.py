"""The ensemble role: members are searched for, selected, combined, and distilled into a student."""
