-- A small application: orders, and functions that change them. Each function writes what it did to the change log, in
-- the transaction of the change: both are committed or neither is. It may be applied again.

CREATE SCHEMA IF NOT EXISTS app;

CREATE TABLE IF NOT EXISTS app.orders (
    id         uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    number     bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
    customer   text NOT NULL,
    total      numeric(12, 2) NOT NULL CHECK (total >= 0),
    status     text NOT NULL DEFAULT 'new' CHECK (status IN ('new', 'shipped', 'canceled')),
    created_at timestamptz NOT NULL DEFAULT now()
);

-- log_change is what an application adds to its mutations. The before-image (object_data_before) is optional: with it
-- an event says what each field was. updated_fields serves those who leave it out.
CREATE OR REPLACE FUNCTION app.log_change(verb text, was app.orders, is_now app.orders) RETURNS void
LANGUAGE sql AS $$
    INSERT INTO core.tb_entity_change_log
           (object_type, modification_type, object_id, object_data, object_data_before, updated_fields)
    SELECT 'Order', verb, is_now.id, to_jsonb(is_now), to_jsonb(was),
           (SELECT array_agg(f.key)
              FROM jsonb_each(to_jsonb(is_now)) f
             WHERE to_jsonb(was) IS NOT NULL AND f.value IS DISTINCT FROM to_jsonb(was) -> f.key)
$$;

CREATE OR REPLACE FUNCTION app.create_order(customer text, total numeric) RETURNS app.orders
LANGUAGE plpgsql AS $$
DECLARE
    made app.orders;
BEGIN
    INSERT INTO app.orders (customer, total) VALUES (create_order.customer, create_order.total) RETURNING * INTO made;
    PERFORM app.log_change('INSERT', NULL, made);
    RETURN made;
END
$$;

CREATE OR REPLACE FUNCTION app.set_status(order_id uuid, status text) RETURNS app.orders
LANGUAGE plpgsql AS $$
DECLARE
    was    app.orders;
    is_now app.orders;
BEGIN
    SELECT * INTO STRICT was FROM app.orders o WHERE o.id = order_id FOR UPDATE;
    IF was.status <> 'new' THEN
        RAISE EXCEPTION 'order % is already %', was.number, was.status;
    END IF;
    UPDATE app.orders o SET status = set_status.status WHERE o.id = order_id RETURNING * INTO is_now;
    PERFORM app.log_change('UPDATE', was, is_now);
    RETURN is_now;
END
$$;

CREATE OR REPLACE FUNCTION app.ship_order(order_id uuid) RETURNS app.orders
LANGUAGE sql AS $$ SELECT app.set_status(order_id, 'shipped') $$;

CREATE OR REPLACE FUNCTION app.cancel_order(order_id uuid) RETURNS app.orders
LANGUAGE sql AS $$ SELECT app.set_status(order_id, 'canceled') $$;
