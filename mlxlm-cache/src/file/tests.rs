//! Files of both layouts.
