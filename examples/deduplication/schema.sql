CREATE TABLE orders (
    id       uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    customer text NOT NULL,
    total    numeric(12, 2) NOT NULL DEFAULT 10,
    status   text NOT NULL DEFAULT 'new'
);
